/* SPDX-License-Identifier: Apache-2.0 */
/* Every message between the server's threads: kind, who sends it to whom, and what the body is.
 *
 * "-> reply" means that the asker gets a ticket and the answer comes back under the same kind.
 * Bodies that are json_t are moved: the sender keeps no reference. A thread that gets a kind it
 * does not know asserts: that is our bug. */
#ifndef WEIR_SERVER_MSG_H
#define WEIR_SERVER_MSG_H

#define MSG_TABLE(X)                                                                             \
    /* main -> all: end; each thread answers when it has let go of everything. */                \
    X(STOP, "stop")                                                                              \
    /* acceptor -> inbound, outbound: struct session (monitor/session.h), authenticated. */      \
    X(SESSION_OPEN, "session-open")                                                              \
    /* inbound or outbound -> the other half, then acceptor: the half is shut; both said         \
     * so: fd closed. */                                                                         \
    X(SESSION_SHUT, "session-shut")                                                              \
    /* inbound -> services: struct gateway_hello: a session stands. */                           \
    X(GATEWAY_UP, "gateway-up")                                                                  \
    /* inbound -> services: arg[0] session: it is gone; body: char * why. */                     \
    X(GATEWAY_DOWN, "gateway-down")                                                              \
    /* inbound -> services: struct report. */                                                    \
    X(REPORT, "report")                                                                          \
    /* inbound -> services: arg[0] session, arg[1] epoch, status. */                             \
    X(CONTROLS_ACK, "controls-ack")                                                              \
    /* inbound -> services: arg[0] session, arg[1] stream index. */                              \
    X(SURGE, "surge")                                                                            \
    /* services -> outbound: arg[0] session, arg[1] seq, arg[2] acked; body: struct              \
     * poll_drain, or none. */                                                                   \
    X(SEND_POLL, "send-poll")                                                                    \
    /* acceptor -> outbound: arg[0] session; struct rekey_word (monitor/rotation.h). */          \
    X(SEND_REKEY, "send-rekey")                                                                  \
    /* inbound -> acceptor: arg[0] session; struct key_confirm (monitor/rotation.h). */          \
    X(KEY_CONFIRM, "key-confirm")                                                                \
    /* app -> acceptor: arg[0..1] gateway id -> reply when it has a new key, or not. */          \
    X(GATEWAY_ROTATE, "gateway-rotate")                                                          \
    /* app -> acceptor: struct rotation_order (monitor/rotation.h), which the store has          \
     * -> reply. */                                                                              \
    X(ROTATION_ORDERED, "rotation-ordered")                                                      \
    /* app -> acceptor -> reply json_t: {gateway id: since when a new key is ordered, us}. */    \
    X(ROTATION_ORDERS, "rotation-orders")                                                        \
    /* finder -> acceptor: struct found_list (monitor/found.h): what is announced now. */        \
    X(GATEWAYS_FOUND, "gateways-found")                                                          \
    /* app -> acceptor -> reply json_t: the gateways that this server dials. */                  \
    X(DIALS, "dials")                                                                            \
    /* services -> outbound: arg[0] session; struct control_update (services/controls.h). */     \
    X(SEND_CONTROLS, "send-controls")                                                            \
    /* outbound -> services: arg[0] session, arg[1] 1: it does not read, what waited was let     \
     * go of; 0: it reads again. */                                                              \
    X(STALLED, "stalled")                                                                        \
    /* round all who know a gateway: struct move (move.h). */                                    \
    X(MOVE, "move")                                                                              \
    /* services -> acceptor: struct gateway_targets: what a gateway stands before. */            \
    X(GATEWAY_TARGETS, "gateway-targets")                                                        \
    /* services -> acceptor: arg[0..1] gateway id: recalled from the database. */                \
    X(GATEWAY_KNOWN, "gateway-known")                                                            \
    /* services -> acceptor: arg[0..1] gateway id: retired. */                                   \
    X(GATEWAY_GONE, "gateway-gone")                                                              \
    /* acceptor -> services: arg[0..1] gateway id: another process has it. */                    \
    X(GATEWAY_FORGET, "gateway-forget")                                                          \
    /* acceptor -> services: arg[0..1] gateway id, arg[2] its subgroup's number. */              \
    X(GATEWAY_SUBGROUP, "gateway-subgroup")                                                      \
    /* main -> acceptor: arg[0] pairs, arg[1] SLA processes -> reply when every gateway is       \
     * within. */                                                                                \
    X(ROUTE_RESIZE, "route-resize")                                                              \
    /* services, acceptor -> outbound: arg[0] session; body: char * why: say bye and close. */   \
    X(SESSION_END, "session-end")                                                                \
    /* services -> services, itself too: struct share_batch (services/share.h): notes to the     \
     * coordinator of limits that span processes, or what it grants. */                          \
    X(SUBGROUP_SHARE, "subgroup-share")                                                          \
    /* app -> services: struct view_request -> reply json_t: entities out of the cache. */       \
    X(VIEW, "view")                                                                              \
    /* app -> services: struct document_change -> reply: agreement, tenant or policy             \
     * committed. */                                                                             \
    X(DOCUMENT_CHANGED, "document-changed")                                                      \
    /* app -> services: struct admission_request -> reply json_t: whether it fits. */            \
    X(ADMISSION, "admission")                                                                    \
    /* app -> services: arg[0] 1 on, 0 off -> reply. */                                          \
    X(ENFORCEMENT, "enforcement")                                                                \
    /* services, resource, acceptor, store -> app: json_t event or action, for live views. */    \
    X(NOTICE, "notice")                                                                          \
    /* services -> resource: struct target_seen. */                                              \
    X(TARGET_SEEN, "target-seen")                                                                \
    /* resource -> services: struct target_health: what the probe of a target found. */          \
    X(TARGET_HEALTH, "target-health")                                                            \
    /* any -> store writer: struct store_batch (samples, events, actions): no reply; drops       \
     * are counted. */                                                                           \
    X(STORE_APPEND, "store-append")                                                              \
    /* app, acceptor, services -> store writer: struct store_write -> reply json_t:              \
     * committed. */                                                                             \
    X(STORE_WRITE, "store-write")                                                                \
    /* app, acceptor, services -> store reader: struct store_query -> reply json_t. */           \
    X(STORE_QUERY, "store-query")                                                                \
    /* main -> app: struct app_keys (app/app.h): certificates were read anew. */                 \
    X(HTTP_KEYS, "http-keys")                                                                    \
    /* main -> acceptor: struct tls_creds: the same for the control port. */                     \
    X(CONTROL_TLS, "control-tls")                                                                \
    /* main -> resource: struct probe_key_set (resource/probe_keys.h): the same for probes. */    \
    X(PROBE_KEYS, "probe-keys")                                                                  \
    /* app -> acceptor: keys changed (token made or revoked): read them again. */                \
    X(KEYS_CHANGED, "keys-changed")                                                              \
    /* nobody sends it: so the thread map calls what an SLA process does when it is due. */      \
    X(PERIOD, "period")

enum msg_kind {
    MSG_NONE,
#define X(name, label) MSG_##name,
    MSG_TABLE(X)
#undef X
    MSG_KIND_COUNT,
};

/* "report", "store-write", ... */
const char *msg_kind_name(unsigned kind);

#endif
