/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>

#include "refusal.h"

bool refuse(struct refusal *refusal, const char *error, const char *todo, const char *format, ...)
{
	va_list arguments;

	refusal->error = error;
	refusal->todo = todo;
	va_start(arguments, format);
	vsnprintf(refusal->message, sizeof(refusal->message), format, arguments);
	va_end(arguments);
	return false;
}
