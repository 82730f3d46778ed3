"""What a grid is: layouts, fill masks, text visibility, routing, token coordinates."""
