"""Workers that are compared: ours and other libraries', each a program that appends no-op jobs or works them off."""
