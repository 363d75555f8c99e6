"""The vehicles of the demo's map: their cities and lines, the simulation that moves them, and its switch."""
