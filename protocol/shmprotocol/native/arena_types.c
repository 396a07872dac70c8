/* SPDX-License-Identifier: Apache-2.0 */
/* arena_types.c - the types of arenas, and the value of a name that may be in one. See builtins.c. */
#ifndef SHM_ARENA_TYPES_H
#define SHM_ARENA_TYPES_H

#include <stdint.h>
#include <string.h>

static int shm_install(uint64_t dict, const char *name, PyObject *object);

/* Put a type into a dict; it stays referred to by us. NULL: an error, after which nothing of it is used. */
static PyObject *shm_install_type(uint64_t dict, const char *name, PyType_Spec *spec, PyObject *base)
{
        PyObject *type = base == NULL ? PyType_FromSpec(spec) : PyType_FromSpecWithBases(spec, base);

        if (type == NULL)
                return NULL;
        return shm_install(dict, name, Py_NewRef(type)) ? NULL : type;
}

/* Put the types of arenas into a dict. Returns 0 or -ENOMEM. */
static int shm_arena_install(uint64_t dict)
{
        if (pthread_atfork(NULL, NULL, shm_note_fork) != 0)
                return -ENOMEM;
        shm_dtype_text = PyUnicode_InternFromString("dtype");
        shm_shape_text = PyUnicode_InternFromString("shape");
        if (shm_dtype_text == NULL || shm_shape_text == NULL)
                return -ENOMEM;
        shm_ledger_type = shm_install_type(dict, "Ledger", &shm_ledger_spec, NULL);
        shm_held_value_type = shm_install_type(dict, "HeldValue", &shm_held_value_spec, NULL);
        shm_reader_type = shm_install_type(dict, "ArenaReader", &shm_reader_spec, NULL);
        shm_loan_type = shm_install_type(dict, "Loan", &shm_loan_spec, NULL);
        if (shm_ledger_type == NULL || shm_held_value_type == NULL || shm_reader_type == NULL || shm_loan_type == NULL)
                return -ENOMEM;
        return shm_install_type(dict, "ArenaOwner", &shm_owner_spec, shm_reader_type) == NULL ? -ENOMEM : 0;
}

#define SHM_ARENAS_FEW 4 /* to compare names takes less time than to make one for a dict */

/* What a dict has for a name; borrowed; NULL, perhaps with an exception: nothing. */
static PyObject *shm_arena_named(PyObject *arenas, const char *text, Py_ssize_t size)
{
        PyObject *key, *value, *name;
        Py_ssize_t at = 0, length;

        if (PyDict_Size(arenas) > SHM_ARENAS_FEW) {
                name = PyUnicode_DecodeUTF8(text, size, NULL);
                value = name == NULL ? NULL : PyDict_GetItemWithError(arenas, name);
                Py_XDECREF(name);
                return value;
        }
        while (PyDict_Next(arenas, &at, &key, &value)) {
                const char *known = PyUnicode_Check(key) ? PyUnicode_AsUTF8AndSize(key, &length) : NULL;

                if (known != NULL && length == size && memcmp(known, text, (size_t)size) == 0)
                        return value;
                if (known == NULL)
                        PyErr_Clear(); /* it is nobody's name */
        }
        return NULL;
}

/* The value of an arena's name, of which the arena has `name[:slash]`; NULL with no exception: it is not known. */
static PyObject *shm_value_in(PyObject *arenas, PyObject *name, const char *text, Py_ssize_t size, const char *slash)
{
        PyObject *reader = shm_arena_named(arenas, text, slash - text), *value = NULL;
        const struct shm_current *current;

        if (reader == NULL || !PyObject_TypeCheck(reader, (PyTypeObject *)shm_reader_type))
                return NULL;
        current = (const struct shm_current *)((struct shm_reader *)reader)->current;
        if (current == NULL || !shm_current_grants(current))
                return NULL;
        Py_INCREF(reader); /* a value that is made may run code that takes it out of the dict */
        value = shm_reader_get(reader, name, slash + 1, size - (slash + 1 - text));
        Py_DECREF(reader);
        return value;
}

/*
 * The value of a name in one of the arenas of a dict from name to reader. None: there is no such arena, or it has no
 * such name, or it is not certain without the host that it is current and may be read.
 */
static PyObject *shm_value_in_arena(PyObject *arenas, PyObject *name)
{
        const char *text, *slash;
        Py_ssize_t size;
        PyObject *value;

        if (PyDict_Size(arenas) == 0 || !PyUnicode_Check(name))
                Py_RETURN_NONE;
        text = PyUnicode_AsUTF8AndSize(name, &size);
        if (text == NULL) {
                PyErr_Clear(); /* surrogates: refused elsewhere */
                Py_RETURN_NONE;
        }
        for (slash = strchr(text, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
                value = shm_value_in(arenas, name, text, size, slash);
                if (value != NULL || PyErr_Occurred())
                        return value;
        }
        Py_RETURN_NONE;
}

/* value_again(mapped, arenas, name): the value of a name in one of two dicts, as above; None: the host must be asked. */
static PyObject *shm_value_again(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
        PyObject *value;

        (void)self;
        if (shm_arguments_check("value_again", count, 3) < 0)
                return NULL;
        value = shm_value_mapped(arguments[0], arguments[2]);
        if (value != Py_None)
                return value;
        Py_DECREF(value);
        return shm_value_in_arena(arguments[1], arguments[2]);
}

#endif /* SHM_ARENA_TYPES_H */
