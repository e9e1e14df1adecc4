/* SPDX-License-Identifier: Apache-2.0 */
/* The finder: browses DNS-SD for gateways that listen, through the machine's avahi daemon.
 *
 * Problem. Gateways come and go on a network that nobody writes a list of. What is announced there
 * is said by anybody and proved by nobody; and the client library waits for D-Bus inside its calls.
 *
 * Model. A thread of its own, so that its waiting is nobody else's. One client, one browser for
 * `_weir-gateway._tcp`, a resolver for each announcement (interface, protocol, name, domain):
 *
 *   browser: new --> service, resolver made --address good--> resolved
 *                        ^      | resolver fails               | removed
 *                        +-30 s-+                              v
 *   browser: removed ------------------------------------> forgotten
 *
 * After a change the whole list goes to the acceptor (found.h), at most twice a second; a list that
 * found no room is said again. The acceptor dials what is in it as if server.conf had listed it:
 * only the proof of the key makes a gateway of it.
 *
 * Invariants:
 *  1. At most FOUND_MAX services, whatever is announced; of more the rest is counted, and looked at
 *     again when some have gone.
 *  2. Names are escaped and only shown; nothing else of an announcement but address and port is
 *     read. TXT records are not looked at.
 *  3. While the daemon or D-Bus is away nothing is announced: sessions that stand are not touched.
 *
 * What may fail: no D-Bus, no daemon, either restarted. The client is made anew after 0.5 s,
 * doubled to 30 s; that it cannot be is said once until it could. */
#include <avahi-client/client.h>
#include <avahi-client/lookup.h>
#include <avahi-common/domain.h>
#include <avahi-common/error.h>
#include <avahi-common/simple-watch.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "server/monitor/found.h"
#include "server/monitor/mail.h"
#include "server/monitor/monitor_private.h"
#include "server/msg.h"

#define TYPE "_weir-gateway._tcp"
#define TELL_NS (500 * NS_PER_MS)
#define FIRST_NS (500 * NS_PER_MS)
#define MOST_NS (30 * NS_PER_S)
#define RESOLVE_AGAIN_NS (30 * NS_PER_S)
#define BROWSE_AGAIN_NS (10 * NS_PER_S)
/* Descriptors that the client waits for; it has one connection, and the loop's own pipe. */
#define WATCHES_MAX 32u

struct service {
    struct finder *finder; /* NULL: free */
    AvahiServiceResolver *resolver;
    AvahiIfIndex interface;
    AvahiProtocol protocol;
    char name[AVAHI_LABEL_MAX], domain[AVAHI_DOMAIN_NAME_MAX];
    bool resolved;
    struct found found;
    uint64_t again_ns; /* without a resolver: when the next is made */
};

struct finder {
    struct monitor *m;
    struct mailbox *me;
    AvahiSimplePoll *loop;
    AvahiClient *client;
    AvahiServiceBrowser *browser;
    struct service service[FOUND_MAX];
    bool broken;   /* the client is of no use any more */
    bool overflow; /* some were announced that found no place */
    bool changed;  /* since the acceptor was told */
    bool said;     /* that there is no daemon, since there last was one */
    unsigned failures;
    uint64_t told_ns, client_ns, browse_ns; /* last; next; next, 0: not wanted */
    bool stop;
    struct msg stop_msg;
};

/* ---- services */

static void service_forget(struct service *s)
{
    if (s->resolver != NULL)
        avahi_service_resolver_free(s->resolver);
    s->finder->changed |= s->resolved;
    *s = (struct service){.finder = NULL};
}

static void resolved(AvahiServiceResolver *r, AvahiIfIndex interface, AvahiProtocol protocol,
                     AvahiResolverEvent event, const char *name, const char *type,
                     const char *domain, const char *host, const AvahiAddress *a, uint16_t port,
                     AvahiStringList *txt, AvahiLookupResultFlags flags, void *ctx)
{
    struct service *s = ctx;
    struct finder *f = s->finder;
    (void)interface, (void)protocol, (void)type, (void)domain, (void)host, (void)txt, (void)flags;
    weir_assert(s->resolver == NULL || s->resolver == r);
    struct found now = {.address = ""};
    bool good = false;
    if (event == AVAHI_RESOLVER_FOUND && a != NULL) {
        good = found_address(a->proto == AVAHI_PROTO_INET6 ? AF_INET6 : AF_INET, &a->data, port,
                             now.address, sizeof(now.address));
        name_escape(name, strlen(name), now.name);
    } else {
        avahi_service_resolver_free(r);
        s->resolver = NULL;
        s->again_ns = clock_mono_ns() + RESOLVE_AGAIN_NS;
    }
    if (!good)
        monitor_count(f->m, found_refused);
    f->changed |= good != s->resolved || (good && strcmp(s->found.address, now.address) != 0);
    s->resolved = good;
    if (good)
        s->found = now;
}

static void service_resolve(struct service *s)
{
    struct finder *f = s->finder;
    s->again_ns = clock_mono_ns() + RESOLVE_AGAIN_NS;
    s->resolver = avahi_service_resolver_new(f->client, s->interface, s->protocol, s->name, TYPE,
                                             s->domain, s->protocol, 0, resolved, s);
    if (s->resolver == NULL)
        monitor_count(f->m, found_refused);
}

static struct service *service_find(struct finder *f, AvahiIfIndex interface,
                                    AvahiProtocol protocol, const char *name, const char *domain)
{
    for (size_t i = 0; i < FOUND_MAX; i++) {
        struct service *s = &f->service[i];
        if (s->finder != NULL && s->interface == interface && s->protocol == protocol &&
            strcmp(s->name, name) == 0 && strcmp(s->domain, domain) == 0)
            return s;
    }
    return NULL;
}

static void service_new(struct finder *f, AvahiIfIndex interface, AvahiProtocol protocol,
                        const char *name, const char *domain)
{
    struct service *s = NULL;
    for (size_t i = 0; s == NULL && i < FOUND_MAX; i++)
        if (f->service[i].finder == NULL)
            s = &f->service[i];
    if (s == NULL || strlen(name) >= sizeof(s->name) || strlen(domain) >= sizeof(s->domain)) {
        f->overflow |= s == NULL;
        monitor_count(f->m, found_refused);
        return;
    }
    *s = (struct service){.finder = f, .interface = interface, .protocol = protocol};
    strncpy(s->name, name, sizeof(s->name) - 1);
    strncpy(s->domain, domain, sizeof(s->domain) - 1);
    service_resolve(s);
}

/* ---- browser and client */

static void browsed(AvahiServiceBrowser *b, AvahiIfIndex interface, AvahiProtocol protocol,
                    AvahiBrowserEvent event, const char *name, const char *type,
                    const char *domain, AvahiLookupResultFlags flags, void *ctx)
{
    struct finder *f = ctx;
    (void)b, (void)type, (void)flags;
    if (event == AVAHI_BROWSER_FAILURE)
        f->broken = true;
    if ((event != AVAHI_BROWSER_NEW && event != AVAHI_BROWSER_REMOVE) || name == NULL)
        return;
    struct service *s = service_find(f, interface, protocol, name, domain);
    if (event == AVAHI_BROWSER_NEW && s == NULL)
        service_new(f, interface, protocol, name, domain);
    if (event == AVAHI_BROWSER_REMOVE && s != NULL) {
        service_forget(s);
        if (f->overflow && f->browse_ns == 0)
            f->browse_ns = clock_mono_ns() + BROWSE_AGAIN_NS;
    }
}

/* What is there already is announced anew to a new browser, so those that found no place come
 * again; those that have one are known. */
static void browse(struct finder *f)
{
    AvahiServiceBrowser *old = f->browser;
    f->overflow = false;
    f->browse_ns = 0;
    f->browser = avahi_service_browser_new(f->client, AVAHI_IF_UNSPEC, AVAHI_PROTO_UNSPEC, TYPE,
                                           NULL, 0, browsed, f);
    if (old != NULL)
        avahi_service_browser_free(old);
    if (f->browser == NULL)
        f->broken = true;
}

static void unsaid(struct finder *f, const char *why)
{
    if (!f->said)
        log_warning("monitor: gateways cannot be looked for on the network: %s; it is tried again",
                    why);
    f->said = true;
}

static void client_changed(AvahiClient *c, AvahiClientState state, void *ctx)
{
    struct finder *f = ctx;
    f->client = c; /* this is called before the call that makes it returns */
    switch (state) {
    case AVAHI_CLIENT_S_RUNNING:
    case AVAHI_CLIENT_S_REGISTERING:
    case AVAHI_CLIENT_S_COLLISION:
        if (f->browser == NULL)
            browse(f);
        if (f->browser == NULL)
            break;
        if (f->said)
            log_info("monitor: gateways are looked for on the network again");
        f->said = false;
        f->failures = 0;
        break;
    case AVAHI_CLIENT_CONNECTING:
        unsaid(f, "the avahi daemon does not run");
        break;
    case AVAHI_CLIENT_FAILURE:
        unsaid(f, avahi_strerror(avahi_client_errno(c)));
        f->broken = true;
        break;
    }
}

static void client_close(struct finder *f)
{
    for (size_t i = 0; i < FOUND_MAX; i++)
        if (f->service[i].finder != NULL)
            service_forget(&f->service[i]);
    if (f->browser != NULL)
        avahi_service_browser_free(f->browser);
    if (f->client != NULL)
        avahi_client_free(f->client);
    f->browser = NULL;
    f->client = NULL;
    f->broken = f->overflow = false;
    f->browse_ns = 0;
}

static void client_open(struct finder *f, uint64_t now)
{
    int e = 0;
    uint64_t wait = FIRST_NS << (f->failures < 6 ? f->failures : 6);
    f->failures++;
    f->client_ns = now + (wait < MOST_NS ? wait : MOST_NS);
    f->client = avahi_client_new(avahi_simple_poll_get(f->loop), AVAHI_CLIENT_NO_FAIL,
                                 client_changed, f, &e);
    if (f->client == NULL)
        unsaid(f, avahi_strerror(e));
}

/* ---- the thread */

static struct found_list *list_make(const struct finder *f)
{
    struct found_list *l = calloc(1, sizeof(*l) + FOUND_MAX * sizeof(l->item[0]));
    for (size_t i = 0; l != NULL && i < FOUND_MAX; i++)
        if (f->service[i].finder != NULL && f->service[i].resolved)
            found_add(l, &f->service[i].found);
    return l;
}

static void tell(struct finder *f, uint64_t now)
{
    f->told_ns = now;
    struct found_list *l = list_make(f);
    if (l != NULL && mail_post(f->me, f->m->threads->acceptor, MSG_GATEWAYS_FOUND, 0, 0, l, free))
        f->changed = false;
    else
        free(l);
}

/* What time has come for; the time until the next. */
static int due_ms(struct finder *f)
{
    uint64_t now = clock_mono_ns();
    if (f->broken) {
        client_close(f);
        f->client_ns = f->client_ns > now ? f->client_ns : now + FIRST_NS;
    }
    if (f->client == NULL && now >= f->client_ns)
        client_open(f, now);
    if (f->browse_ns != 0 && now >= f->browse_ns && !f->broken)
        browse(f);
    for (size_t i = 0; i < FOUND_MAX && !f->broken; i++) {
        struct service *s = &f->service[i];
        if (s->finder != NULL && s->resolver == NULL && now >= s->again_ns)
            service_resolve(s);
    }
    if (f->changed && now - f->told_ns >= TELL_NS)
        tell(f, now);
    if (f->broken)
        return 0;
    return f->changed || f->client == NULL ? 100 : 1000;
}

static void take(struct finder *f)
{
    struct msg m;
    do {
        while (!f->stop && mailbox_take(f->me, &m)) {
            weir_assert(m.kind == MSG_STOP);
            f->stop = true;
            f->stop_msg = m;
        }
    } while (!f->stop && mailbox_drained(f->me));
}

/* poll(2) for the client's loop, with the mailbox besides. */
static int wait_for(struct pollfd *watch, unsigned n, int timeout, void *ctx)
{
    struct finder *f = ctx;
    struct pollfd all[WATCHES_MAX + 1];
    weir_assert(n <= WATCHES_MAX);
    memcpy(all, watch, n * sizeof(all[0]));
    all[n] = (struct pollfd){.fd = mailbox_fd(f->me), .events = POLLIN};
    mailbox_idle(f->me, clock_mono_ns());
    int ready = poll(all, n + 1, timeout);
    mailbox_busy(f->me, MSG_GATEWAYS_FOUND, clock_mono_ns());
    for (unsigned i = 0; i < n; i++)
        watch[i].revents = ready > 0 ? all[i].revents : 0;
    return ready > 0 && all[n].revents != 0 ? ready - 1 : ready;
}

void *monitor_finder_main(void *monitor_thread)
{
    const struct monitor_thread *t = monitor_thread;
    struct finder *f = calloc(1, sizeof(*f));
    weir_assert(f != NULL);
    f->m = t->monitor;
    f->me = t->monitor->threads->finder;
    f->loop = avahi_simple_poll_new();
    weir_assert(f->loop != NULL);
    avahi_simple_poll_set_func(f->loop, wait_for, f);
    while (!f->stop) {
        take(f);
        int timeout = f->stop ? 0 : due_ms(f);
        if (!f->stop && avahi_simple_poll_iterate(f->loop, timeout) != 0)
            f->broken = true;
    }
    client_close(f);
    avahi_simple_poll_free(f->loop);
    struct msg stop = f->stop_msg;
    struct mailbox *me = f->me;
    free(f);
    mailbox_reply(me, &stop, 0, NULL, NULL);
    return NULL;
}
