"""What `manage.py run_bot_subscriber` runs."""
