/* SPDX-License-Identifier: Apache-2.0 */
/* Where a token comes from, and where `weir login` puts one.
 *
 * In this order: --token-file; WEIR_TOKEN; ~/.config/weir/token, if it was stored for this server;
 * and, for a server on this machine, admin.token of its state folder. */
#ifndef WEIR_CLI_CREDENTIAL_H
#define WEIR_CLI_CREDENTIAL_H
#include <stdbool.h>

#include "cli/cli.h"

struct credential {
    char *token; /* NULL: none found */
};

enum cli_exit credential_find(struct cli *c, const char *server, bool local,
                              struct credential *ret);
void credential_fini(struct credential *cr);
/* Who signs the server's certificate: --ca, WEIR_CA, ~/.config/weir/ca.pem; *@ret (from malloc) is
 * NULL where nobody says. */
enum cli_exit credential_ca(const struct cli *c, char **ret);
/* Keep @token for @server, 0600. */
enum cli_exit credential_store(const char *server, const char *token);
/* Whether @token may stand in a header: not empty, and the characters of RFC 6750, 2.1. */
bool credential_is_token(const char *token);

#endif
