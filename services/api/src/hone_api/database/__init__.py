"""What outlives the process: tables, and transactions upon them."""
