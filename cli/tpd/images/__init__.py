"""Building tpd's images and bringing them where they are needed."""
