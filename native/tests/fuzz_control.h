/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_FUZZ_CONTROL_H
#define TESTS_FUZZ_CONTROL_H

#include <stddef.h>

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t length);

#endif
