/* SPDX-License-Identifier: Apache-2.0 */
/* One JSON object a line on stderr: "event" names it, the rest is its fields. */
#ifndef SYNPROXYD_LOG_H
#define SYNPROXYD_LOG_H

#include <jansson.h>

#include "refusal.h"

/* fields: a format of json_pack for an object, e.g. "{s:s}", or NULL */
void log_info(const char *event, const char *fields, ...);
void log_warning(const char *event, const char *fields, ...);
void log_error(const char *event, const char *fields, ...);
/* how many lines of that kind there were since the start, written or not */
unsigned long log_warnings(void);
unsigned long log_errors(void);
/* For commands that print to a person instead. */
void log_mute(void);
void log_refusal(const char *event, const struct refusal *refusal);

#endif
