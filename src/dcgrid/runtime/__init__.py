"""What the program runs on: devices, number formats, threads, memory."""
