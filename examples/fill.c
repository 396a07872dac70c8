/* SPDX-License-Identifier: Apache-2.0 */
/* fill.c - fills each buffer of an iovec with the letter X: stands for any C function that takes buffers. */
#include <string.h>
#include <sys/uio.h>

void fill(const struct iovec *iov, int count)
{
        for (int i = 0; i < count; i++)
                if (iov[i].iov_len)
                        memset(iov[i].iov_base, 'X', iov[i].iov_len);
}
