"""What people train and measure on, read from their own copies: class folders, tables, caption pairs."""
