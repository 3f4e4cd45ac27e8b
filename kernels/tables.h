/* tables - codebooks. */
#pragma once
#include <stdint.h>

/* IQ4_NL: values of the 16 codes. */
#define IQ4_NL_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
