"""
The dashboard: the admin's first page, the page "Delivery statistics", and the same as JSON and CSV.

Owns how the figures are shown, and where each leads. Does not own the figures (notifications.statistics).
"""
