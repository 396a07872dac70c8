/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gil.c - says to free-threaded CPython that this module needs the GIL: its state changes with that held. The import
 * switches it on then, and says so in a RuntimeWarning; no thread has run without it before. By itself cffi declares that
 * what it makes does not need it (_cffi_backend.c, 2.0). Comes last: what cffi generates follows.
 */
#ifdef Py_GIL_DISABLED
static PyObject *shm_init_with_gil(const char *name, Py_ssize_t version, const struct _cffi_type_context_s *context)
{
        PyObject *module = _cffi_init(name, version, context);

        if (module != NULL && PyUnstable_Module_SetGIL(module, Py_MOD_GIL_USED) < 0)
                Py_CLEAR(module);
        return module;
}
#define _cffi_init shm_init_with_gil
#endif
