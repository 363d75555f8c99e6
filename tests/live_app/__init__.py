"""An app with topics that have a snapshot and places, for sites under test."""
