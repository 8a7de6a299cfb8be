/* Euler's scheme for SignSGD's SDE on a diagonal quadratic, by hand: the practical limit on a processor.

   Two-point increments: one hash of a counter per coordinate and 32 steps, one bit of it per step. A seed's coordinates
   stay in the nearest cache for all of its steps. Compiled by sde.py with -O3 -march=native -ffast-math and OpenMP. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

static inline uint32_t hash(uint64_t z)
{
    z = (z ^ (z >> 33)) * 0xff51afd7ed558ccdULL;
    z = (z ^ (z >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return (uint32_t)(z >> 32);
}

/* erf to 2e-7, as x P(x^2) / Q(x^2) on [-3.9, 3.9]; the coefficients come from the caller. */
static inline float error_function(float x, const float *p, const float *q)
{
    x = x > 3.9f ? 3.9f : (x < -3.9f ? -3.9f : x);
    float z = x * x;
    float above = ((((p[5] * z + p[4]) * z + p[3]) * z + p[2]) * z + p[1]) * z + p[0];
    float below = ((((q[5] * z + q[4]) * z + q[3]) * z + q[2]) * z + q[1]) * z + q[0];
    return x * above / below;
}

void sign_sgd(float *x, const float *curvature, size_t seeds, size_t dim, size_t steps, float h, float eta, float sigma,
              uint64_t key, const float *p, const float *q)
{
    const float narrow = 1 / (sqrtf(2) * sigma), kick = sqrtf(h * eta);
#pragma omp parallel for schedule(static)
    for (size_t s = 0; s < seeds; s++) {
        float *y = x + s * dim;
        uint32_t word[dim];
        for (size_t n = 0; n < steps; n += 32) {
            size_t block = steps - n < 32 ? steps - n : 32;
            for (size_t j = 0; j < dim; j++)
                word[j] = hash(key + ((uint64_t)(n / 32) * seeds + s) * dim + j);
            for (size_t k = 0; k < block; k++)
#pragma omp simd
                for (size_t j = 0; j < dim; j++) {
                    float mean = error_function(narrow * curvature[j] * y[j], p, q);
                    float left = 1 - mean * mean;
                    union { uint32_t bits; float value; } sign = {((word[j] >> k) << 31) | 0x3f800000u};
                    y[j] -= h * mean + kick * sqrtf(left > 0 ? left : 0) * sign.value;
                }
        }
    }
}
