"""What `possm bench` measures; a door like `api` and `demo`: it may use every room, and only cli uses it."""
