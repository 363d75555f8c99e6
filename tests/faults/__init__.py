"""The fault matrix: what is published, delivered, lost and doubled while parts of a site fail."""
