"""Which way a prompt says that its things move; nothing here knows of boxes."""
