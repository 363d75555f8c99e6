"""What tests share: servers, processes, clients, models, settings."""
