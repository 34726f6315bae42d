"""What reports are made of: a self-contained HTML page, and pictures for light and dark screens."""
