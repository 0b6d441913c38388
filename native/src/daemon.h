/* SPDX-License-Identifier: Apache-2.0 */
/* The commands; each returns the exit code of the process. */
#ifndef SYNPROXYD_DAEMON_H
#define SYNPROXYD_DAEMON_H

#include "options.h"

#define EXIT_REFUSED 1
#define EXIT_USAGE   2
#define EXIT_AGAIN   75 /* EX_TEMPFAIL: a new start would bring what is missing */

int command_run(const struct options *options);
int command_check(const struct options *options);
int command_selftest(const struct options *options);
int command_detach(const struct options *options);
int command_status(const struct options *options);

#endif
