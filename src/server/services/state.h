/* SPDX-License-Identifier: Apache-2.0 */
/* What one SLA process holds in memory: the private side of the entity cache. For files of
 * services/ only.
 *
 * Bounds: gateways config.max_gateways; streams config.max_streams, 5 KiB each and ten bytes for
 * each histogram bucket that the stream ever used (at most 12 x 16 KiB, where every one is);
 * targets TARGETS_PER_GATEWAY each; documents SERVICES_MAX_*. Everything is freed by
 * services_free. */
#ifndef WEIR_SERVER_SERVICES_STATE_H
#define WEIR_SERVER_SERVICES_STATE_H
#include <stdarg.h>

#include "qos/knee.h"
#include "server/services/coordinator.h"
#include "server/services/precedence.h"
#include "server/services/services.h"
#include "server/services/split.h"

#define TARGETS_PER_GATEWAY 256u
#define STREAM_COVERS PRECEDENCE_MAX_COVER
/* Parts of claims that a stream belongs to: of its covers first, then the tenant's. */
#define STREAM_PARTS (STREAM_COVERS + 1u)

/* Hash table of intrusive lists; the number of slots is fixed at the start. */
struct table {
    struct list *slot;
    size_t mask;
};

/* The window that is being gathered: differences of cumulative counters since the last whole
 * answer. */
struct gather {
    uint64_t arrivals;                  /* of I/Os that objectives speak of */
    uint64_t arrived[2], bytes_arrived[2]; /* the same by direction */
    uint64_t total_ns[2];               /* from arrival to answer, of those answered */
    uint64_t reads, writes, others;     /* completions */
    uint64_t read_bytes, write_bytes, errors, held;
    struct sparse_hist hist[METER_HIST_COUNT];
};

/* What the last verdicts of a unit have in common. */
enum unit_run { RUN_NONE, RUN_FAILING, RUN_MET, RUN_QUIET };

/* What verdicts are given on: a stream alone, or all streams of an agreement together. */
struct unit {
    enum verdict verdict;
    const struct objective *objective;
    uint64_t latency_us;
    double ratio; /* judged over promised; > 1 is worse than promised; 0: unknown */
    uint64_t demand_iops, iops;
    uint64_t thin_ops, thin_late;       /* evidence too thin for one period adds up, */
    uint32_t thin_periods;              /* over so many that had I/O, */
    uint64_t thin_ns;                   /* the last of them counted then; 0: none */
    enum unit_run run;
    uint32_t run_looks;                 /* so many in a row, of a period or for a warning, */
    uint64_t run_ns;                    /* the first of them then */
    bool violated;
    uint64_t window_start_ns;           /* compliance window; 0: none begun */
    double late, allowed;               /* I/Os in it that came late, and that might have */
};

/* State of the controller for one throttled stream (throttle.c). */
struct brake {
    double rate;                        /* I/Os per second now allowed; 0: not throttled */
    double knee;                        /* rate up to which it may grow fast; 0: not known */
    double learnt;                      /* the knee as it was when it was learnt */
    uint64_t knee_ns;                   /* when that was learnt */
    bool knee_found;                    /* by failing there, not only guessed from the load */
    uint64_t cut_ns;                    /* when it was cut last */
    bool changed;                       /* since it was sent */
    uint64_t drained_ns; /* windows that began before still show the backlog; UINT64_MAX: not
                            acknowledged */
    uint32_t slack;                     /* periods in a row in which it did not bind */
    double recorded;                    /* rate in the last recorded action */
    char memo_decision[32]; /* last suppressed proposal, so that it is written down once */
    char memo_policy[NAME_SIZE];
    char memo_victim[STREAM_KEY_SIZE];
    double memo_from, memo_to;          /* I/Os per second, as it was proposed last */
    uint32_t memo_age;                  /* periods since it was last proposed */
};

/* Whether holding back helps at one target (blame.c). */
struct blame {
    double load, ratio;                 /* beyond contracts, and of the victim, before the cuts */
    double last_surplus;                /* of the period before */
    uint32_t unhelped;                  /* failing periods that the cuts did not help */
    uint32_t good;                      /* periods without a victim since */
    uint32_t given_up;                  /* times in a row */
    uint64_t spare_until_ns;            /* nobody is cut before */
};

struct gateway;

/* Looks at a storage's lower window, at all its gateways at once; useful.c. */
struct useful {
    struct window_look look;            /* the last one asked for, of all gateways together */
    bool awaited;                       /* its answers are */
    uint64_t asked_ns, due_ns;          /* the next one */
    double rate;                        /* answered at the higher window, by cost; 0: not known */
    double weighed_part;                /* of these answers, that no reservation sent */
};

/* What targets of several gateways with one URI are together: one storage, one bottleneck
 * (storage.c). */
struct storage {
    char name[NAME_SIZE];               /* as the first of its gateways calls it */
    char uri[512];
    struct list link;
    struct list targets, streams;       /* of all its gateways */
    double reserved;                    /* device time a second, of all promises */
    double capacity;                    /* the same that it can do; 0: not known */
    struct {                            /* of the claim that is looked at (plan.c) */
        uint64_t walk;
        double demand[GATE_KIND_COUNT];
        uint64_t cost_ns, served[GATE_KIND_COUNT];
        size_t parts;
    } sum;
    struct {                            /* of the agreement that is looked at (admission.c) */
        uint64_t walk;
        double demand, cost_ns, ios, bytes, iops, taken;
        size_t streams;
    } ask;
    struct {                            /* of the plan that is being made */
        double reserved;
        uint64_t wait_us;
        bool speaks;
        bool owed;                      /* what is only at one target is to be looked at */
    } plan;
    struct part *firsts;                /* one of each claim here; plan.c */
    bool speaks;                        /* somebody has a share here */
    struct {                            /* slots.c */
        bool slots_on;                  /* its window is found and divided here */
        uint64_t learnt;                /* whole period in which it last was looked at */
        struct knee knee;
        struct useful useful;
        uint64_t divided;               /* the window as last divided */
        double inflight;                /* of all gateways, in the mean */
        double slots_of_cost;           /* of a nanosecond of device time a second, as last seen */
        size_t live;                    /* gateways */
        struct part *waiting;           /* one of each claim at several places that waits here */
    };
    uint64_t counted;                   /* last walk that counted it */
    bool over;                          /* reservations exceed the capacity */
    double fits;                        /* part of the reservations that fits */
    bool overcommitted;                 /* said */
    uint64_t overcommitted_ns;          /* last seen so */
    uint64_t wait_us;                   /* bound of the device's wait that promises ask for */
    uint64_t run_ns;                    /* when it was last looked at */
    uint64_t period_ns;                 /* the same, a whole period after the one before */
    uint64_t asked_ns;                  /* all its gateways were asked at once; 0: not */
    bool was_failing;
    double
        pressure; /* ratio of the worst off stream within its contract: up at once, down slowly */
    uint32_t calm;                      /* periods in a row with nobody to protect */
    uint32_t strained;                  /* periods in a row above a promise */
    uint32_t throttles;                 /* of its streams, now */
    uint32_t helpless;                  /* periods in a row with a victim and nobody to cut */
    bool short_said;
    struct blame blame;
};

/* Of a target's scheduler, cumulative. */
struct target_counts {
    uint64_t mono_ns, busy_ns, full_ns, ios, bytes;
};

struct target {
    struct entity_target e;
    struct gateway *gateway;
    struct storage *storage;
    struct cost_model cost;             /* as its gateway reckons; all 0: not known */
    double reserved_alone;              /* device time a second, of claims that are only here */
    uint64_t wait_alone_us;             /* the bound that they ask for; 0: none */
    bool speaks_alone;                  /* one of them makes a promise */
    struct {                            /* slots.c: of the last window of its gateway */
        struct target_counts now, seen; /* reported; at its end */
        double seconds, use, full;      /* length; mean in flight; part with work waiting */
        double ios, bytes;              /* answered, a second */
        struct look_result look;        /* as reported */
        double served, calm;            /* device time a second: of all; of what does not wait */
        double calm_weight;             /* of what does not wait */
        double calm_reserve;            /* and what of that is reserved */
        double waits_weight, waits_reserve; /* of what waits and is owed only here */
        double owed;                    /* slots, as last divided */
        uint64_t slots_milli;           /* its part; 0: it finds its own */
    };
    struct window_plan plan;            /* as last decided */
    uint64_t planned_ns;                /* first of this boot; 0: never */
    struct list link;                   /* in its gateway */
    struct list in_storage;
};

struct agreed {                         /* an agreement in force */
    struct entity_agreement e;          /* first: lists of entities link it */
    struct list streams;                /* that have its promise */
    struct list covered;                /* struct cover: all that its limits hold for */
    struct unit unit;                   /* when its numbers hold for the group */
    uint64_t judged_ns;
    uint64_t mark;                      /* last walk that met it */
    double holds;                       /* of the storage that is looked at (admission.c) */
};

/* What an agreement's numbers (or a tenant's limits) hold for: all its streams together, or those
 * of one key, over all gateways and targets (claim.c). */
struct claim {
    char id[2 * NAME_SIZE];             /* as the control is called: "agreement/NAME", ... */
    struct list in_id;                  /* hash table */
    struct list link;                   /* of all */
    struct list parts;
    struct list in_spanning;            /* in s->spanning: it has several parts */
    struct list in_dirty;               /* in s->dirty: to be divided anew */
    struct agreed *agreed;              /* NULL: of a tenant */
    int32_t tenant;                     /* index of its document, else -1 */
    size_t part_count;
    uint64_t walk;                      /* last walk that met it */
    struct quota *quota;                /* NULL: there are no other processes, or no memory */
    /* settle.c */
    uint64_t unheard[GATE_KIND_COUNT];  /* of those that were not heard since the start, perhaps */
    bool short_of;                      /* somebody has less than was divided, yet */
    uint64_t short_ns;                  /* since then */
};

/* What this process may use of a claim that may have parts at others (quota.c). */
struct quota {
    struct share_key key;
    struct list in_key, in_unsent, in_releasing;
    struct claim *claim;                /* NULL: no streams of it here */
    uint64_t seq;
    bool spans;                         /* other processes have streams of it */
    uint64_t limit[GATE_KIND_COUNT];    /* of the whole claim, when it was last divided here */
    uint32_t own[GATE_KIND_COUNT];      /* tokens of SHARE_ONE */
    uint32_t held[GATE_KIND_COUNT];     /* no longer own, but gateways may still use them */
    uint32_t back[GATE_KIND_COUNT];     /* to be given back with the next note */
    double others_iops;
    uint64_t others_bytes;
};

/* Tokens that travel with a gateway. */
struct carried {
    struct share_key key;
    uint32_t tokens[GATE_KIND_COUNT];
};

/* What a gateway shall have and may have of a claim's limits; at its first part (settle.c). */
struct hold {
    struct gate_limits aim;             /* as last divided */
    uint64_t most[GATE_KIND_COUNT];     /* rates that may be in force: at least those ordered */
    uint64_t epoch;                     /* with which that is sent; UINT64_MAX: it is not yet */
    uint64_t since_ns;                  /* when @most last was no more than what is ordered */
    bool changed;                       /* ordered anew, in the settling under way */
};

/* A limit that a gateway said to be in force. */
struct told {
    uint64_t id;                        /* hash of the claim's */
    uint64_t rate[GATE_KIND_COUNT];
};

/* A claim at one gateway before one target. Sums are of the last window. */
struct part {
    struct claim *claim;
    struct gateway *gateway;
    struct target *target;              /* may be NULL */
    struct list in_claim, in_gateway;
    struct list twins;                  /* ring: parts of the claim at the gateway, other targets */
    bool first;                         /* of its ring */
    uint32_t streams, connected;
    uint32_t held[GATE_KIND_COUNT];     /* streams that a limit of this claim holds back; by kind
                                           as far as directions tell */
    double demand[GATE_KIND_COUNT];     /* what arrived, a second */
    struct gate_limits limits;          /* what shall hold here, as last ordered */
    struct hold hold;
    uint64_t least[GATE_KIND_COUNT];    /* rate in force, at the least since the last report */
    uint64_t bound[GATE_KIND_COUNT];    /* the same of the window that was reported */
    bool split;                         /* limits are set */
    /* The promise of those streams here that have it from this claim. */
    uint32_t promised;
    uint64_t cost_ns;                   /* served, cumulative */
    uint64_t served[GATE_KIND_COUNT];   /* the same as I/Os and bytes */
    uint64_t cost_before_ns, ios_before; /* both as of the report before */
    double late_cost_ns, late_ios;      /* the same of late: each report halves what was before */
    double promise[GATE_KIND_COUNT];    /* reserved at its storage; 0: none of that kind */
    double reserve;                     /* all of that as I/Os a second, wanted */
    double reserve_fits;                /* the same as far as it fits */
    double factor;                      /* of the first: what fits of the claim's there */
    double settled_factor;              /* with which it was planned, if @settled */
    bool settled;                       /* planned, and its promise is still the same */
    struct part *leader;                /* the claim's first at its storage, in plan @asked */
    uint64_t asked;                     /* s->period.number */
    struct part *next_first;            /* in storage.firsts */
    uint32_t waiting;                   /* streams with I/Os that wait for their turn */
    double calm;                        /* device time a second of those without */
    uint32_t waiting_parts;             /* of the claim at its storage; slots.c */
    struct part *next_waiting;          /* in storage.waiting */
    uint64_t others[GATE_KIND_COUNT];   /* served elsewhere, as last seen */
    uint64_t told[GATE_KIND_COUNT];     /* and as far as it counts against the reservation */
    struct sched_terms share;           /* in force; weight 0: none */
    struct sched_terms planned;         /* on top, while the server lives; weight 0: none */
};

/* One agreement that covers one stream. */
struct cover {
    struct list in_agreed;
    struct agreed *agreed;
    struct stream *stream;
    struct part *part;                  /* NULL: no memory */
};

struct stream {
    struct entity_stream e;             /* first: lists of entities link it */
    struct gateway *gateway;
    struct target *target;
    struct agreed *agreed;              /* whose promise it has */
    struct cover cover[STREAM_COVERS];
    uint32_t cover_count;
    struct part *tenant_part;           /* NULL: no tenant document */
    bool left_out_said;
    int32_t tenant;                     /* index of the tenant document, -1: none */
    struct storage *storage;            /* of its target; NULL: no target yet */
    struct list in_gateway, in_storage, in_agreed, in_index, in_key;
    bool mapped;                        /* e.index is valid in this boot */
    bool was_active;
    bool baseline;                      /* its next counts only say where they stand */
    char tenant_reported[NAME_SIZE];
    uint64_t max_hold_said_ns;
    bool max_hold_said;
    struct gather gather;
    uint64_t cost_before_ns;            /* e.cost_served_ns at the end of the last window */
    struct unit unit;
    struct brake brake;
    struct {                            /* while it travels to another process (parcel.c) */
        char agreement[NAME_SIZE];      /* "": it had no promise */
        uint64_t version, judged_latency_us, verdict_since_ns;
        size_t objective, unit_objective; /* places in the agreement; above its count: none */
        enum verdict verdict;
        struct unit unit;
    } kept;
};

/* A control as last sent: the id, and a hash of all the rest. */
struct sent {
    char id[2 * NAME_SIZE];
    uint64_t content;
    bool planned;
};

struct gateway {
    struct entity_gateway e;
    struct list streams, targets;
    struct list parts;                  /* struct part: of claims here */
    size_t target_count;
    struct list in_id, in_session;
    size_t heap_index;                  /* 0: not there */
    uint64_t due_ns;                    /* next poll, or next step of the lost */
    uint64_t phase_ns;                  /* where in the period it is polled */
    bool baseline;                      /* the next whole answer only says where counters stand */
    bool outstanding;                   /* a poll is not answered yet */
    uint32_t unanswered;
    uint64_t whole_seq, gather_seq;     /* newest whole answer; the one coming in (0: none) */
    bool whole_known;
    uint64_t whole_mono_ns, whole_now_ns;
    uint64_t window_start_ns;           /* of the last whole window, server's clock */
    uint64_t lost_ns, surge_ns;
    bool surged;                        /* the answer that comes is to an early warning */
    bool surge_owed;                    /* one came while an answer was outstanding: ask again */
    bool stale_counted; /* lost for so long that it no longer takes a share of limits */
    bool ask_all;                       /* the next poll asks for everything */
    bool refused_streams;
    /* controls */
    bool send_full, throttles_changed, parts_changed;
    struct list in_changed;             /* with parts_changed: to be dispatched */
    uint64_t sent_ns, retry_ns, renewed_ns;
    uint64_t generation;                /* of what it was sent; 0: look what differs */
    uint64_t mark;                      /* last walk that met it */
    struct sent *sent;                  /* by id */
    size_t sent_count, sent_cap;
    /* settle.c */
    bool unheard;                       /* known from before the start, and not heard since */
    bool follows;                       /* some part has more in force, perhaps, than is ordered */
    bool tells;                         /* it ever said what limits are in force */
    struct told *told;                  /* until all of it is replaced */
    size_t told_count, told_cap;
    bool told_sorted;
    uint64_t told_seq;                  /* of the answer that they are of */
    uint64_t parcel_epoch;              /* while it travels: epochs there are above */
    struct carried *carried;            /* and its part of limits */
    size_t carried_count;
    bool targets_changed;               /* sink.targets is owed */
    /* upkeep.c */
    bool drained_said;
    uint8_t life_boot[GATEWAY_ID_SIZE]; /* whose deaths e.life counts */
    uint64_t deaths_unsaid, deaths_ns;  /* ns: when they were told last; 0: never */
    unsigned certificate_said;          /* the step (base/dates.h) of e.life's that was told */
};

/* A gateway that shall take no hosts; every process knows all of them. */
struct drain_wish {
    char id[2 * GATEWAY_ID_SIZE + 1];
    uint64_t since;
    int64_t deadline_us;
};

/* What people said of late of gateways unknown here: one that travels meanwhile is met by it where
 * it arrives. */
#define PARCEL_ORDERS 16u
#define PARCEL_ORDER_NS (UINT64_C(60) * 1000000000)
enum parcel_order { PARCEL_NOTHING, PARCEL_RETIRE };
struct parcel_note {
    char name[NAME_SIZE];
    enum parcel_order order;
    uint64_t at_ns;
};

/* What a period asks for, and where it stands (period.c). */
enum period_stage {
    PERIOD_RESTS,
    PERIOD_DIRTY,    /* limits whose members changed are divided */
    PERIOD_SPLIT,    /* and those over several gateways, which follow demand */
    PERIOD_BEGIN,    /* the plan: what is asked of each storage by claims that are only there */
    PERIOD_ASK,      /* by those at several places */
    PERIOD_STORAGES, /* reservations against capacity */
    PERIOD_SHARED,   /* shares of claims at several places */
    PERIOD_TARGETS,  /* plans for targets */
    PERIOD_WAITING,  /* slots: who waits */
    PERIOD_SLOTS,    /* windows are learnt and divided */
    PERIOD_SEND_ALL, /* every gateway is looked at */
    PERIOD_SEND      /* what changed goes out */
};
enum storage_step { STORAGE_OPEN, STORAGE_GATHER, STORAGE_ALONE };
struct period {
    enum period_stage stage;
    struct list *at;                    /* next of the list that the stage walks; NULL: its first */
    enum storage_step step;             /* in PERIOD_STORAGES, of the storage @at */
    struct list *target;                /* next of its targets; NULL: the first */
    bool whole;                         /* divisions and slots too, once a period */
    bool all;                           /* agreements changed: all gateways are looked at */
    bool anew;                          /* and all shares */
    uint32_t restarts;
    uint64_t whole_number;              /* of the last that was whole */
    uint64_t number;                    /* of the plan: never used twice */
};

struct services {
    struct services_config config;
    struct services_sink sink;
    struct entities e;
    struct services_stats stats;
    uint64_t now_ns;                    /* of the call that runs */
    int64_t wall_us;
    bool loaded;
    struct table by_id, by_session, by_index, by_key;
    struct gateway **heap;              /* 1-based, by due_ns */
    size_t heap_count;
    struct table by_claim;
    struct list claims, spanning, dirty, changed;
    size_t unheard;                     /* gateways */
    bool others_unheard;                /* other processes may wait for some yet */
    bool heard_said, heard_owed;        /* that this one waits for none: decided; to be sent */
    uint32_t heard_from, heard_to;      /* coordinator: who said so; who is to be told */
    uint64_t loaded_ns;
    bool sharing;                       /* there are other processes, or were */
    struct table by_quota;
    struct list quota_unsent, quota_releasing;
    uint64_t quota_seq;                 /* last given */
    struct coordinator *coordinator;    /* in process 0 */
    bool share_owed;                    /* notes or grants wait for room */
    struct list storages;
    uint64_t plan_ns;                   /* when splits are made anew */
    struct period period;
    const struct list *place;           /* of whoever walks the cache in pieces */
    uint64_t planned_generation, touched, planned_touched;
    struct split_part *split;           /* scratch, of the largest claim */
    struct part **holder;
    size_t split_cap;
    struct wishes *wishes;              /* scratch of dispatch.c; NULL: not used yet */
    struct allocate_claim *ask;         /* scratch of storages, of the largest */
    size_t ask_cap;
    struct tenant *tenants;
    size_t tenants_cap;
    struct policy *policies;
    size_t policies_cap;
    uint64_t epoch;                     /* last given */
    uint64_t action_id;                 /* last given */
    uint64_t generation;                /* of documents: what all gateways are sent may differ */
    uint64_t mark, walk;                /* numbers of walks */
    uint8_t (*admitted)[GATEWAY_ID_SIZE]; /* by people or an earlier life, sorted; admitted.c */
    size_t admitted_count, admitted_cap;
    struct parcel_note order[PARCEL_ORDERS];
    uint32_t order_next;
    struct drain_wish *drain;           /* by id */
    size_t drain_count, drain_cap;
    int64_t schedules_min;              /* wall minute at which they were last looked at */
    bool streams_full_said, gateways_full_said;
    struct hist scratch;                /* for merging groups: all zero between them */
    struct sparse_hist group;           /* the one that was merged last */
    struct sample_record sample;        /* for making one */
};

/* --- services.c
 * ----------------------------------------------------------------------------------------- */
void gateway_poll(struct services *s, struct gateway *g);
/* Something of @g that its own controls and the plan are made of changed: its streams, what covers
 * them, its state. What others hold of the same limits changes through their claims. */
void gateway_touch(struct services *s, struct gateway *g);
/* Ask it now, unless it is asked already or cannot be. */
void gateway_poll_now(struct services *s, struct gateway *g);

/* --- table.c: hash tables, sorted arrays and the heap of due times
 * ------------------------------------------------- */
int table_init(struct table *t, size_t at_least);
void table_fini(struct table *t);
struct list *table_slot(const struct table *t, uint64_t hash);
/* FNV-1a (RFC 9923), continued from @seed. */
uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t n);
#define HASH_SEED UINT64_C(0xcbf29ce484222325)
/* Of @count items of @size bytes: where @key is, or where it would go in. @order is less than,
 * equal to or greater than 0, as the item is to the key. */
size_t sorted_place(const void *base, size_t count, size_t size, const void *key,
                    int (*order)(const void *item, const void *key), bool *ret_there);

/* Put @g in the heap at @due_ns, or move it there. */
void heap_set(struct services *s, struct gateway *g, uint64_t due_ns);
void heap_remove(struct services *s, struct gateway *g);

/* --- entity.c
 * ---------------------------------------------------------------------------------------- */
struct gateway *entity_gateway_by_id(struct services *s, const uint8_t id[GATEWAY_ID_SIZE]);
struct gateway *entity_gateway_by_session(struct services *s, uint64_t session);
/* NULL: full or no memory. */
struct gateway *entity_gateway_new(struct services *s, const struct gateway_hello *h);
void entity_gateway_free(struct services *s, struct gateway *g);
/* Out of every table and list of @s, whole, and into those of another. It keeps streams, targets
 * and what was sent; agreements are found anew there by select_stream. */
void entity_gateway_take_out(struct services *s, struct gateway *g);
void entity_gateway_put_in(struct services *s, struct gateway *g);
/* The checked setter; says an event and calls sink.gateway. */
void entity_gateway_set_state(struct services *s, struct gateway *g, enum gateway_state to,
                              const char *why);
void entity_gateway_attach(struct services *s, struct gateway *g, const struct gateway_hello *h);
void entity_gateway_detach(struct services *s, struct gateway *g);
/* Whether its members take a part of limits that span gateways. */
bool entity_gateway_holds(const struct gateway *g);

struct stream *entity_stream_find(struct services *s, const struct gateway *g, uint32_t index);
/* Find by name or make it, and map @r->index to it; NULL: full. */
struct stream *entity_stream_map(struct services *s, struct gateway *g,
                                 const struct report_stream *r);
void entity_stream_free(struct services *s, struct stream *st);
struct target *entity_target_get(struct services *s, struct gateway *g, const char *name);
/* Names should come escaped; what is not is escaped here, so that nothing raw is ever shown. */
void entity_name_take(char out[NAME_SIZE], const char *in, bool may_be_empty);
/* "gateway/NAME", escaped. */
void entity_gateway_subject(const struct gateway *g, char *out, size_t size);

/* --- merge.c
 * ----------------------------------------------------------------------------------------- */
enum merge { MERGE_IGNORED, MERGE_PART, MERGE_WHOLE };
enum merge merge_report(struct services *s, struct gateway *g, const struct report *r);
void merge_fini(struct stream *st);   /* it is freed next */
void merge_forget(struct stream *st); /* counters begin at zero: a new boot */
void merge_window_end(struct stream *st); /* its gateway is lost: nothing is known of now */

/* --- services.c and parcel.c
 * ---------------------------------------------------------------------------- */
void services_at(struct services *s, uint64_t now_ns, int64_t wall_us);
void services_make_room(struct services *s);
void services_retire(struct services *s, struct gateway *g, const char *why);
/* @who did it, for the event. */
void services_admit(struct services *s, struct gateway *g, const char *who);
/* Keep it for one that may arrive; what was said before of @name is void. */
void parcel_order(struct services *s, const char *name, enum parcel_order order);

/* --- admitted.c: whom people admitted; empty where nobody is asked
 * --------------------------------------- */
bool admitted_is(const struct services *s, const uint8_t id[GATEWAY_ID_SIZE]);
int admitted_put(struct services *s, const uint8_t id[GATEWAY_ID_SIZE]); /* 0 or WEIR_E_FULL */
void admitted_remove(struct services *s, const uint8_t id[GATEWAY_ID_SIZE]);
void admitted_fini(struct services *s);

/* --- upkeep.c: draining, and how gateways' processes fare
 * --------------------------------------- */
/* What the poll of @g says beside the poll. */
void upkeep_poll(struct services *s, struct gateway *g, struct poll_request *p);
/* A whole answer is here. */
void upkeep_report(struct services *s, struct gateway *g, const struct report *r);
/* Whether it is not to be forgotten for being away. */
bool upkeep_keeps(const struct services *s, struct gateway *g);
/* The gateway of this id is retired by people. */
void upkeep_forget(struct services *s, const char *id);
void upkeep_fini(struct services *s);

/* --- select.c: which agreement and tenant a stream falls under
 * --------------------------------------- */
void select_stream(struct services *s, struct stream *st);
void select_stream_drop(struct services *s, struct stream *st);
bool selector_match(const struct selector *sel, const char *tenant, const char *host,
                    const char *volume, const char *target);
bool selector_match_stream(const struct selector *sel, const struct stream *st);
int select_agreement_put(struct services *s, const struct agreement *a, char *ret_words,
                         size_t size);
int select_agreement_remove(struct services *s, const char *name);
/* Schedules open and close: at each minute. */
void select_schedules(struct services *s);
int select_tenant_put(struct services *s, const struct tenant *t);
int select_tenant_remove(struct services *s, const char *name);
int select_policy_put(struct services *s, const struct policy *p);
int select_policy_remove(struct services *s, const char *name);
void select_free(struct services *s);

/* --- storage.c: what several gateways share
 * --------------------------------------------------------------------------------------- */
/* The storage that @t is by its URI now; what it was before is left. False: no memory. */
bool storage_join(struct services *s, struct target *t);
/* Whether a target of @uri is a way to it. */
bool storage_leads_to(const struct storage *st, const char *uri);
/* Whether another gateway has it, under the same name and URI. */
bool storage_named_elsewhere(const struct target *t);
void storage_leave(struct services *s, struct target *t);
/* @st belongs to @t from now on (may be NULL). */
void storage_take(struct stream *st, struct target *t);
/* Whether @t is to be looked at now that @g has reported: once a period, and at once when a
 * promise begins to fail there. */
bool storage_due(struct services *s, struct storage *t, const struct gateway *g);

/* --- claim.c: claims and their parts
 * --------------------------------------------------------------------------------------- */
/* The stream's covers, tenant or target changed: it belongs to other parts now. */
void claim_link(struct services *s, struct stream *st);
void claim_unlink(struct services *s, struct stream *st);
/* Where covers change: take the stream out of its parts, change them, and link it anew. What is
 * left for good is left last, so that a part that stays keeps what may be in force of it. */
void claim_parts_take(struct stream *st, struct part *ret[STREAM_PARTS]);
void claim_relink(struct services *s, struct stream *st, struct part *const was[STREAM_PARTS]);
/* A whole report of @g is merged: sum up its parts. */
void claim_gather(struct services *s, struct gateway *g);
/* Divide its limits anew when they are dirty, or demand is worth it; gateways whose parts changed
 * are put in s->changed. */
void claim_split(struct services *s, struct claim *c);
/* The same for what is dirty at @g. */
void claim_split_dirty(struct services *s, struct gateway *g);
/* An early warning of @g was answered: divide anew what it has a part of, and nothing else. */
void claim_resplit(struct services *s, struct gateway *g);
/* All claims at @g are dirty: it came, went, or no longer counts. */
void claim_gateway_changed(struct services *s, struct gateway *g);
/* The claim's limits as agreed, for all gateways together. */
void claim_limits(const struct services *s, const struct claim *c, struct gate_limits *ret);
bool claim_covers(const struct claim *c, const struct stream *st);
/* What all its gateways here ask of it, of one kind. */
void claim_need(const struct claim *c, int kind, struct split_part *ret);
/* What it was given of its limit changed: divide anew. */
void claim_regive(struct services *s, struct claim *c);
/* What gateways that are lost for a moment keep of each kind. */
void claim_frozen(const struct claim *c, uint64_t ret[GATE_KIND_COUNT]);
/* Whether its gateways here follow what was divided last. */
bool claim_applied(struct services *s, struct claim *c);
/* Gateways have followed: give on what was waited for, without a look at demand. */
void claim_go_on(struct services *s, struct claim *c);
/* It is divided anew when it is next looked at. */
void claim_dirty(struct services *s, struct claim *c);
/* Above so many parts a claim is not looked at with each acknowledgement, but once a period. */
#define PARTS_AT_ACK 64u
/* Size of the volumes here, if the limit grows with it; else 0. */
uint64_t claim_bytes(const struct claim *c);
void claim_fini(struct services *s);
/* Put @g in s->changed: something about its parts is to be sent. */
void claim_mark(struct services *s, struct gateway *g);

/* --- settle.c: who shrinks before who grows
 * --------------------------------------------------------------------------------------- */
/* What of a claim's limits is divided: without what others may still use. */
struct usable {
    struct gate_limits limits;          /* of this process */
    uint64_t kept[GATE_KIND_COUNT];     /* of them, by gateways that are lost or were not heard */
};
/* A first part came: what is known to be in force at its gateway. */
void settle_begin(struct services *s, struct part *p);
/* Take from @u what gateways may hold that were not heard since the server started. @whole: the
 * limits over all processes. */
void settle_unheard(struct services *s, struct claim *c, const struct gate_limits *whole,
                    struct usable *u);
/* Order what was divided (hold.aim) as far as others have made room. */
void settle(struct services *s, struct claim *c, struct part *const *holder, size_t n,
            const struct usable *u);
/* Whether more may be in force at the gateway of @p, a first part, than is ordered. */
bool settle_follows(const struct services *s, struct part *p);
/* All that was to be sent to @g went. */
void settle_sent(struct gateway *g);
/* @g has acknowledged, or its report says what is in force. True: some may be told of more. */
bool settle_applied(struct services *s, struct gateway *g);
/* It refused an order: until the next full set is applied nothing counts as followed. */
void settle_refused(struct gateway *g);
/* A frame of a report says which limits are in force; before its streams are merged. */
void settle_tell(struct services *s, struct gateway *g, const struct report *r);
/* The same for one that moves: what may be in force, for the process where it arrives. */
void settle_export(struct gateway *g);
/* What was told is used up, or void. */
void settle_forget(struct gateway *g);
/* After a start. One that may be from before; it was heard, or is waited for no longer. */
void settle_recalled(struct services *s, struct gateway *g);
void settle_heard(struct services *s, struct gateway *g);
/* All that are known are recalled; other processes wait for none of theirs; once a period. */
void settle_loaded(struct services *s);
void settle_others_heard(struct services *s);
void settle_period(struct services *s);
void settle_new(const struct services *s, struct claim *c);

/* --- quota.c: claims that other SLA processes may have parts of
 * --------------------------------------------------------------------------------------- */
int quota_init(struct services *s);
void quota_fini(struct services *s);
void quota_join(struct services *s, struct claim *c);
void quota_leave(struct services *s, struct claim *c);
/* @l is what the whole claim may: where that is news the coordinator hears of it, also of a claim
 * that is here alone and has nothing else to say. */
void quota_limits(struct services *s, struct claim *c, const struct gate_limits *l);
/* The part of @l that may be used here. */
void quota_scale(const struct services *s, const struct claim *c, struct gate_limits *l);
/* @g leaves with what it uses of its claims, or brings it. */
void quota_export(struct services *s, struct gateway *g);
void quota_import(struct services *s, struct gateway *g);
/* @g has acknowledged. */
void quota_applied(struct services *s, const struct gateway *g);
/* Once a period, and at the end of each tick. */
void quota_period(struct services *s);
void quota_flush(struct services *s);
/* Demand at other processes of those that have the claim's promise. */
double quota_others_iops(const struct claim *c);

/* --- period.c: what is due once a period, in pieces
 * --------------------------------------------------------------------------------------- */
enum period_what {
    PERIOD_WHOLE, /* all of it */
    PERIOD_PLAN,  /* agreements or policies changed: plan, and look at all gateways */
    PERIOD_TELL   /* look at all gateways */
};
/* Begin it, or widen and begin anew what is under way. Where nothing is left to pieces it is done
 * when this returns. */
void period_ask(struct services *s, enum period_what what);
/* One piece; false: nothing is left. */
bool period_step(struct services *s);
/* Call before @l is taken out of one of the lists that a period walks: spanning, dirty, storages,
 * their targets, all targets, all gateways; or all streams. */
void period_leaves(struct services *s, const struct list *l);
/* Call when a part or a target goes: what the plan under way knows of it is void. */
void period_broken(struct services *s);

/* --- plan.c: shares and targets, as period.c calls it
 * --------------------------------------------------------------------------------------- */
/* What claims that are only there ask of it. */
void plan_storage_begin(struct storage *t);
/* What one that spans asks of its storages. */
void plan_claim_ask(struct services *s, struct claim *c);
/* Then, of each storage: whether reservations exceed its capacity; if so each of its targets is
 * gathered; then it is closed, which scales them. */
bool plan_storage_open(struct storage *t);
void plan_target_gather(struct target *one);
void plan_storage_close(struct services *s, struct storage *t);
/* Claims that are only at one target, when what fits changes or (@anew) policies or agreements
 * do. */
void plan_target_alone(struct services *s, struct target *one, bool anew);
/* Then the shares of one that spans, and the plan for a target. */
void plan_claim_shared(struct services *s, struct claim *c);
void plan_target(struct services *s, struct target *t);
/* @g has reported: the shares of claims that are only there. */
void plan_gateway(struct services *s, struct gateway *g);

/* Whether nothing that is planned may hold there. */
bool plan_hands_off(const struct services *s, const struct target *t);
/* All that must come first for @a at this demand, over all storages, as I/Os a second of
 * @bytes_per_io (0: not known). */
double plan_reserve(const struct agreement *a, double demand, double bytes_per_io);
/* Of what comes first for the claim of @p at its storage: of reads, or writes, alone. */
double plan_reserve_dir(const struct part *p, enum io_direction dir);
/* Device time of one I/O of @p, ns. */
double plan_io_cost(const struct part *p);
/* Room for @n that compete, until the next call; NULL: no memory. */
struct allocate_claim *plan_ask_room(struct services *s, size_t n);
/* What it can do, ns of device time a second; 0: not known. */
double plan_capacity(const struct storage *t);
/* The policy by which reservations that do not fit at @t are scaled in equal shares; NULL: there is
 * none, and priority decides. */
const struct policy *plan_shares_by(const struct policy *policies, size_t count,
                                    const struct storage *t);

/* --- slots.c: the window of a storage with several gateways
 * --------------------------------------------------------------------------------------- */
/* @g has reported: what its targets and streams did. */
void slots_gather(struct gateway *g);
/* Once a period, after the plan: who waits; then for each storage, learn and divide anew. */
void slots_waiting(struct services *s);
void slots_storage(struct services *s, struct storage *t);
/* Of a storage that several gateways share: begin to find its window; once a period. */
void useful_begin(struct storage *t);
void useful_learn(struct services *s, struct storage *t);
/* What it has is a guess still. */
bool useful_searches(const struct storage *t);
/* An early warning of @g was answered: divide anew. */
void slots_resplit(struct services *s, struct gateway *g);

/* --- analyzer.c
 * -------------------------------------------------------------------------------------- */
void analyzer_run(struct services *s, struct gateway *g);
/* The demand up to which a contract promises something; 0: it promises nothing. */
uint64_t analyzer_contract_iops(const struct agreement *a);
/* The bytes a second that it reserves. */
uint64_t analyzer_contract_bytes_s(const struct agreement *a);
bool analyzer_promises(const struct agreement *a);
void analyzer_unit_clear(struct unit *u);
/* Periods in a row, and no more than looks, of which @u's verdict was so. */
uint32_t analyzer_run_periods(const struct services *s, const struct unit *u, enum unit_run run);

/* --- throttle.c: the controller
 * ----------------------------------------------------------------------- */
void throttle_run(struct services *s, struct gateway *g);
/* Lift every planned throttle, with @why in the record. */
void throttle_lift_all(struct services *s, const char *why, const char *decision);
void throttle_lift(struct services *s, struct stream *st, const char *why, const char *decision);
/* Policies changed: lift or raise what they no longer allow. */
void throttle_review_all(struct services *s);
/* The gateway has all controls up to @epoch in force. */
void throttle_applied(struct services *s, struct gateway *g, uint64_t epoch);

/* --- bullies.c: who fails, who hurts them
 * ---------------------------------------------------------------- */
#define SCENE_MAX_BULLIES 16u
struct bully {
    struct stream *st;
    double surplus;                     /* of its load, beyond its contract, in cost units */
    bool exempt; /* suffers itself: cut only when the others are not enough */
};
struct scene {                          /* one storage, one look */
    bool whole;                         /* a period after the last such one */
    double total;                       /* load in cost units: I/Os plus one for each 64 KiB */
    double bullies_cost;                /* of those named below */
    double surplus;                     /* load beyond contracts, of all */
    struct stream *victim;              /* the worst off that fails, or NULL */
    double ratio;                       /* its judged over promised */
    double pressure; /* the same of the worst off within its contract; 0: nobody was judged */
    bool anybody;                       /* some stream has a promise that applies now */
    struct bully bully[SCENE_MAX_BULLIES]; /* by surplus, largest first; those who suffer last */
    size_t bully_count;
};
void scene_look(struct scene *sc, struct storage *t);
double scene_cost(const struct stream *st);
/* Look at a period's scene. False: nobody may be cut on @t, for it would not help. May lift. */
bool blame_look(struct services *s, struct storage *t, const struct scene *sc);
/* Mean bytes of an I/O in the last window; 0: unknown. */
double stream_mean_bytes(const struct stream *st);
/* The part of the total load that is @b's surplus. */
uint32_t scene_harm_ppm(const struct scene *sc, const struct bully *b);

/* --- dispatch.c: controls on their way
 * ---------------------------------------------------------------- */
void dispatch_gateway(struct services *s, struct gateway *g);
/* Those whose parts of limits changed, unless they are more than @at_most: many that come at once
 * must not have all the others told at each of them. */
void dispatch_changed(struct services *s, size_t at_most);
#define CHANGED_AT_ONCE 16u
void dispatch_forget(struct gateway *g);
void dispatch_fini(struct services *s);

/* --- sink.c --- */

/* What is not in @sink hears nothing, but of share: NULL there says that nobody else is. */
void sink_set(struct services *s, const struct services_sink *sink);

/* --- note.c: samples, events, actions
 * ------------------------------------------------------------------ */
void note_event(struct services *s, enum event_severity severity, const char *kind,
                const char *subject, const char *format, ...) __attribute__((format(printf, 5, 6)));
void note_stream_subject(const struct stream *st, char *out, size_t size);
void note_action(struct services *s, struct action_record *a);
void note_samples(struct services *s, struct gateway *g);
/* snprintf that cuts and says nothing. */
void words(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
void vwords(char *out, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* Events' subjects: "stream/..." and "gateway/...". */
#define SUBJECT_SIZE (STREAM_KEY_SIZE + 32)

#endif
