import { coordinatorName, natsNames } from "./nats-names.ts";

/** What the configuration of a server depends on. */
export interface NatsServer {
  readonly run: string;
  /** `host:port` for parties in Node. */
  readonly listen: string;
  /** Where JetStream keeps its files. */
  readonly store: string;
  /** The most that it may keep, such as `20GB`. */
  readonly maxFile: string;
  /** `host:port` for pages, and the origins that they may come from. */
  readonly websocket?: { readonly listen: string; readonly origins: readonly string[] };
  /** Files of a certificate and its key, for both. */
  readonly tls?: { readonly certificate: string; readonly key: string };
  /** Where the server writes its process id, so that it can be told to read this again. */
  readonly pidFile?: string;
  /** Servers that keep the same: this one's name and address, and the addresses of all. */
  readonly cluster?: {
    readonly server: string;
    readonly listen: string;
    readonly routes: readonly string[];
    /** What servers let each other in with; without it anybody who reaches `listen` is one of them. */
    readonly password?: string;
  };
  readonly coordinatorPassword: string;
  readonly clients: readonly { readonly name: string; readonly password: string }[];
}

/**
 * The configuration of a nats-server for one federation. The coordinator's account has JetStream; the clients' has none and asks
 * the other for a few services, so that no answer can be sent where a client may not write itself. A client is a user that may
 * publish under its own name alone. A server that gets SIGHUP reads it again, and others stay connected.
 */
export function natsConfig(server: NatsServer): string {
  const { run, listen, store, maxFile, websocket, tls, pidFile, cluster, coordinatorPassword, clients } = server;
  const names = natsNames(run);
  const text = JSON.stringify; // strings and lists of them are written as in JSON
  const secured = tls ? `tls { cert_file: ${text(tls.certificate)}, key_file: ${text(tls.key)} }` : undefined;
  const lines = [
    `# The federation ${run}. Written by scion federate create and invite; what is changed here by hand is written over.`,
    `server_name: ${text(cluster?.server ?? "scion")}`,
    `listen: ${text(listen)}`,
    "max_payload: 1MB",
    ...(pidFile === undefined ? [] : [`pid_file: ${text(pidFile)}`]),
    ...(secured === undefined ? [] : [secured]),
    `jetstream { store_dir: ${text(store)}, max_mem: 64MB, max_file: ${maxFile} }`,
    ...(websocket
      ? [
          `websocket { listen: ${text(websocket.listen)}, ${secured ?? "no_tls: true"}, same_origin: false, allowed_origins: ${text(websocket.origins)} }`,
        ]
      : []),
    ...(cluster
      ? [
          `cluster { name: scion, listen: ${text(cluster.listen)}${cluster.password === undefined ? "" : `, authorization { user: route, password: ${text(cluster.password)} }`}, routes: ${text(cluster.routes.map((at) => `nats://${cluster.password === undefined ? "" : `route:${cluster.password}@`}${at}`))} }`,
        ]
      : []),
    "accounts {",
    "  COORDINATOR {",
    "    jetstream: enabled",
    `    users: [ { user: ${text(coordinatorName)}, password: ${text(coordinatorPassword)} } ]`,
    `    exports: [ ${[...names.services.map((subject) => `{ service: ${text(subject)} }`), `{ stream: ${text(names.told)} }`].join(", ")} ]`,
    "  }",
    "  CLIENTS {",
    `    imports: [ ${[
      ...names.services.map((subject) => `{ service: { account: COORDINATOR, subject: ${text(subject)} } }`),
      `{ stream: { account: COORDINATOR, subject: ${text(names.told)} } }`,
    ].join(", ")} ]`,
    "    users: [",
    ...clients.map(({ name, password }) => {
      const { publish, subscribe } = names.permissions(name);
      return `      { user: ${text(name)}, password: ${text(password)}, permissions: { publish: ${text(publish)}, subscribe: ${text(subscribe)} } }`;
    }),
    "    ]",
    "  }",
    "}",
    "",
  ];
  return lines.join("\n");
}
