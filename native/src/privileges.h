/* SPDX-License-Identifier: Apache-2.0 */
/* Gives up everything that serving the control socket does not need. */
#ifndef SYNPROXYD_PRIVILEGES_H
#define SYNPROXYD_PRIVILEGES_H

#include <stdbool.h>

#include "kernel.h"
#include "refusal.h"

/* No core dump, no ptrace, no /proc/PID/mem: from the first moment on. */
bool privileges_hide(struct refusal *refusal);
/* Becomes `user` (NULL: stays) and drops every capability. Kernels before 5.19 ask for CAP_BPF
 * with every system call of bpf; `kept` tells whether it had to stay. */
bool privileges_drop(const struct kernel *kernel, const char *user, bool *kept,
		     struct refusal *refusal);
/* From here on only the system calls of the main loop work. */
bool privileges_confine(struct refusal *refusal);

#endif
