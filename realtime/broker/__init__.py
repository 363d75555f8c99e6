"""Publications on topics: their form, publishing, and the history that Redis keeps."""
