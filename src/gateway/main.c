/* SPDX-License-Identifier: Apache-2.0 */
/* weir-gateway: from options, file and environment to a manager with its worker, or to one process
 * that does without. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/text.h"
#include "gateway/announce.h"
#include "gateway/config.h"
#include "gateway/handover.h"
#include "gateway/ledger.h"
#include "gateway/local.h"
#include "gateway/manager.h"
#include "gateway/options.h"
#include "gateway/relay.h"
#include "gateway/setup.h"
#include "gateway/upgrade.h"
#include "gateway/worker.h"

/* --single-process. Takes @config. */
static int single_run(struct options *options, struct gateway_config *config)
{
    int listeners[CONFIG_MAX_LISTENERS], local = -1, status = 1;
    struct ledger *ledger = NULL;
    memset(listeners, 0xff, sizeof(listeners)); /* all -1 */
    if (setup_process(config, options) == 0 && ledger_new(config, &ledger) == 0 &&
        manager_listen(config, listeners, &local) == 0) {
        struct ledger_life *life = ledger_life(ledger);
        life->started_ns = life->worker_started_ns = clock_mono_ns();
        life->worker_pid = (uint32_t)getpid();
        ledger_take_bank(ledger, 0);
        manager_announce(config, listeners);
        const struct worker_start start = {
            .options = options,
            .config = config,
            .ledger = ledger,
            .listeners = listeners,
            .local = local,
            .control = -1,
        };
        status = worker_run(&start);
        for (size_t i = 0; i < config->listener_count; i++)
            relay_listener_unlink(&config->listeners[i]);
        local_unlink(config);
    }
    ledger_free(ledger);
    options_config_free(config);
    return status;
}

/* A worker that the manager of an older image started. Takes @config. */
static int upgraded_worker_run(struct options *options, struct gateway_config *config)
{
    struct handover h;
    struct ledger *ledger = NULL;
    char why[HANDOVER_WHY];
    int status = 1, ret = handover_take(&h, config, why);
    if (ret == 0) {
        snprintf(why, sizeof(why),
                 "this version, or max-streams or the targets in the configuration, lays out the "
                 "counters in another way; that takes a restart");
        ret = ledger_open(config, h.ledger, &ledger);
    }
    if (ret < 0)
        log_error("upgrade: %s (%s)", why, weir_strerror(ret));
    else if (setup_process(config, options) == 0) {
        ledger_take_bank(ledger, h.bank);
        const struct worker_start start = {
            .options = options,
            .config = config,
            .ledger = ledger,
            .listeners = h.listeners,
            .local = h.local,
            .control = h.control,
            .stand_by = true,
        };
        status = worker_run(&start);
        close(h.control);
    }
    ledger_free(ledger);
    options_config_free(config);
    return status;
}

/* Read the configuration; NULL after saying what is wrong with it. */
static struct gateway_config *read_config(const struct options *options)
{
    struct text errors;
    text_init(&errors, OPTIONS_ERRORS_MAX);
    struct gateway_config *config = options_config(options, &errors);
    if (!config)
        fprintf(stderr, "weir-gateway: %s", errors.data);
    else if (options->check && config->warnings.len > 0)
        fprintf(stderr, "%s", config->warnings.data);
    else if (handover_role() != HANDOVER_WORKER) /* its manager says it */
        log_lines(LOG_LEVEL_WARNING, config->warnings.data);
    text_fini(&errors);
    return config;
}

int main(int argc, char **argv)
{
    struct options options = {.target = NULL};
    int ret = options_parse(&options, argc, argv);
    if (ret != 0)
        return ret < 0 ? 2 : 0;
    log_init("weir-gateway", LOG_LEVEL_INFO);
    if (options.upgrade)
        return upgrade_ask(&options);
    struct gateway_config *config = read_config(&options);
    /* Workers serve under a manager that has become this image: it cannot go now. Its new worker
     * read the file a moment ago, so somebody is just changing it. */
    while (!config && handover_role() == HANDOVER_MANAGER) {
        (void)sleep(1);
        config = read_config(&options);
    }
    if (!config)
        return 2;
    if (options.check) {
        puts("weir-gateway: the configuration is sound");
        options_config_free(config);
        return 0;
    }
    if (options.announce) {
        ret = announce_exec(config);
        options_config_free(config);
        return ret;
    }
    log_init("weir-gateway", (enum log_level)config->log_level);
    if (handover_role() == HANDOVER_WORKER)
        return upgraded_worker_run(&options, config);
    return options.single ? single_run(&options, config) : manager_run(&options, config);
}
