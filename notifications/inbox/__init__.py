"""The inbox and the bell: queries, pages, views, texts."""
