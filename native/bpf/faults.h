/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Helpers that are made to fail, in a test build; in all others the checks are no code. */
#ifndef FNM_FAULTS_H
#define FNM_FAULTS_H

#include <linux/types.h>

#define FNM_FAULT_RESIZE 1u
#define FNM_FAULT_SAMPLE 2u
#define FNM_FAULT_LOOP	 4u
#define FNM_FAULT_STATE	 8u

#ifdef FNM_FAULTS
const volatile __u32 fnm_fault = 0;
#define FNM_FAULT(which) (fnm_fault & (which))
#else
#define FNM_FAULT(which) 0
#endif

#endif
