/* SPDX-License-Identifier: Apache-2.0 */
/* What systemd wants to hear: sd_notify(3) without its library. Without systemd it is silent. */
#ifndef SYNPROXYD_NOTIFY_H
#define SYNPROXYD_NOTIFY_H

#define NOTIFY_READY	"READY=1"
#define NOTIFY_STOPPING "STOPPING=1"
#define NOTIFY_ALIVE	"WATCHDOG=1"
/* A minute from now on, for a start that is slow. */
#define NOTIFY_PATIENCE "EXTEND_TIMEOUT_USEC=60000000"

void notify_open(void); /* while sockets may still be opened */
void notify_close(void);
void notify(const char *state);
/* What `systemctl status` shows; said only when it is not what was said last. */
void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
