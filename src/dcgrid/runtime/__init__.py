"""What the program runs on: devices, number formats, memory."""
