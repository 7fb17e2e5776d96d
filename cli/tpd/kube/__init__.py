"""The cluster as the developer's own login sees it."""
