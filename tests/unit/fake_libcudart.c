/* A CUDA runtime whose device memory is the host's. FAKE_CUDA_FULL: cudaMalloc finds no room. */
#include <stdlib.h>
#include <string.h>

int cudaMalloc(void **address, size_t size)
{
    if (getenv("FAKE_CUDA_FULL"))
        return 2;
    *address = malloc(size);
    return *address ? 0 : 2;
}
int cudaFree(void *address)
{
    free(address);
    return 0;
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind)
{
    if (kind != 1 && kind != 2)
        return 21;
    memcpy(to, from, size);
    return 0;
}
int cudaStreamCreate(void **stream)
{
    *stream = (void *)0x5;
    return 0;
}
int cudaStreamSynchronize(void *stream) { return stream == (void *)0x5 ? 0 : 400; }
const char *cudaGetErrorString(int status) { return status == 2 ? "out of memory" : "something else"; }
