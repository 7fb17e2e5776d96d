"""How a compose project, or a `docker run`, becomes one whose container is the cluster's workload.

Everything here is pure: argument lists and documents in, argument lists and documents out. Only `locate` reads the
disk. The caller owns the engine, the files and the processes. One run goes like this:

1. `argv.parse_child(argv)` says what the user wants to run: a `ComposeCommand` or a `RunCommand`; anything else is
   refused. `spec.parse_intercept` and `spec.merge_specs` read `--intercept`.
2. Compose: run `command.config_argv()` with the user's environment, directory and (for `-f -`) stdin; its output is
   the `config` below. If `command.wants_services`, run `command.services_argv()` too: its lines are the `services`
   below. `spec.map_services(specs, list(config["services"]))` finds each workload's service.
3. When volumes are wanted: create the Docker volume `transform.shared_volume(config)` with its labels, unless it is
   external, and ask the engine for its mountpoint.
4. Phase 1: `transform.transform(config, Request(...))` with targets that have no environment and no binds yet. Then
   `command.check(plan, services)`. Write `render(plan.document)` to a file of mode 0600. Containers of the
   namespaces' members that were made without tpd hold the published ports and fixed addresses that the anchor needs:
   end them by `command.stop_argv(...)`. Then `command.prepare_argv(...)` starts anchors and daemons, nothing else.
5. Session and attachments, by the daemons (`plan.namespaces[i].daemon` is the service name of each).
6. Phase 2: `transform.transform` again, with the workload's environment and binds filled in; write the same file
   again; run `command.child_argv(..., services=services)`. `argv.child_environment(...)` is what makes further
   `docker compose` commands use the file. Anchors and daemons are defined the same in both phases, so nothing of
   them is recreated.
7. The end: `command.remove_argv(...)`, or the engine, by the label `dev.tpd.run`.

There is one anchor and one daemon per *network namespace*. An intercepted service has a namespace of its own (its
ports, aliases and hostname), which it shares only with services that join it by `network_mode: service:NAME`.

`docker run` is the same story in `dockerrun.plan_run`, which gives three argument lists: anchor, daemon, app.
"""
