"""Another project, whose users have their own model: the two apps must fit in."""
