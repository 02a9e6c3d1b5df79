"""What the gateway tells of itself: wrappers and hooks around code that knows nothing of them."""
