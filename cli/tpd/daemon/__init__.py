"""The daemon: joins the app's network namespace, captures traffic for the cluster, keeps the links, mounts volumes."""
