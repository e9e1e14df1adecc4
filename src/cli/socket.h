/* SPDX-License-Identifier: Apache-2.0 */
/* A gateway's local socket (docs/guide/local-socket.md), asked without a server. */
#ifndef WEIR_CLI_SOCKET_H
#define WEIR_CLI_SOCKET_H
#include <jansson.h>

#include "cli/cli.h"

struct socket;

/* Connect. What fails is told. */
enum cli_exit socket_open(const char *path, struct socket **ret);
void socket_close(struct socket *s);
/* Send @request, a line; fresh reference to the member @name of the answer in *@ret. A connection
 * ends with the worker that served it: the next one is asked then, once. What fails is told. */
enum cli_exit socket_ask(struct socket *s, const char *request, const char *name, json_t **ret);

#endif
