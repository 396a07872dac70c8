/* SPDX-License-Identifier: Apache-2.0 */
/*
 * builtins.c - what is used for every operation, as builtins of Python: a call costs 20 ns, against 100 through cffi.
 * They hold the GIL unless they say otherwise. All of it is in the stable ABI.
 */
#ifndef SHM_BUILTINS_H
#define SHM_BUILTINS_H

#include <stdint.h>

/* cffi: begin */

/* Python objects are passed by their id(); the caller holds a reference during the call. */
int shm_builtins_install(uint64_t dict);

/* cffi: end */

static PyMethodDef shm_builtins[] = {
        {"parse_attach", (PyCFunction)(void (*)(void))shm_parse_attach, METH_FASTCALL, NULL},
        {"receive_now", SHM_FAST(shm_receive_now), METH_FASTCALL, NULL},
        {"accept_now", SHM_FAST(shm_accept_now), METH_FASTCALL, NULL},
        {"send_now", SHM_FAST(shm_send_now), METH_FASTCALL, NULL},
        {"pack_opened", (PyCFunction)(void (*)(void))shm_pack_opened, METH_FASTCALL, NULL},
        {"parse_put", (PyCFunction)(void (*)(void))shm_parse_put, METH_FASTCALL, NULL},
        {"parse_assign", (PyCFunction)(void (*)(void))shm_parse_assign, METH_FASTCALL, NULL},
        {"parse_request", SHM_FAST(shm_parse_request), METH_FASTCALL, NULL},
        {"publish_put", SHM_FAST(shm_publish_put), METH_FASTCALL, NULL},
        {"identify", shm_identify_call, METH_O, NULL},
        {"write_record", SHM_FAST(shm_write_record), METH_FASTCALL, NULL},
        {"set_record", SHM_FAST(shm_set_record), METH_FASTCALL, NULL},
        {"make_sealed", (PyCFunction)(void (*)(void))shm_make_sealed, METH_FASTCALL, NULL},
        {"make_spare", (PyCFunction)(void (*)(void))shm_make_spare, METH_FASTCALL, NULL},
        {"change_name", SHM_FAST(shm_change_name), METH_FASTCALL, NULL},
        {"can_work_apart", shm_can_work_apart, METH_NOARGS, NULL},
        {"pack_published", (PyCFunction)(void (*)(void))shm_pack_published, METH_FASTCALL, NULL},
        {"dict_count", (PyCFunction)(void (*)(void))shm_dict_count, METH_FASTCALL, NULL},
        {"dict_find", (PyCFunction)(void (*)(void))shm_dict_find_call, METH_FASTCALL, NULL},
        {"dict_records", (PyCFunction)(void (*)(void))shm_dict_records, METH_FASTCALL, NULL},
        {"dict_make", (PyCFunction)(void (*)(void))shm_dict_make, METH_FASTCALL, NULL},
        {"rest_keeper", shm_rest_keeper, METH_NOARGS, NULL},
        {"flush_late", shm_builtin_flush_late, METH_NOARGS, NULL},
        {"opened_read", SHM_FAST(shm_builtin_opened_read), METH_FASTCALL, NULL},
        {"value_again", (PyCFunction)(void (*)(void))shm_value_again, METH_FASTCALL, NULL},
        {"dlpack_address", shm_dlpack_address, METH_O, NULL},
        {"arrow_address", shm_arrow_address_call, METH_O, NULL},
        {"arrow_pull", shm_arrow_pull_call, METH_O, NULL},
        {"arrow_check", shm_arrow_check_call, METH_O, NULL},
        {"arrow_schema", shm_arrow_schema_call, METH_O, NULL},
        {"arrow_array", SHM_FAST(shm_arrow_array_call), METH_FASTCALL, NULL},
        {"arrow_stream", shm_arrow_stream_call, METH_O, NULL},
        {"arrow_type", shm_arrow_type_call, METH_O, NULL},
        {"arrow_offsets", SHM_FAST(shm_arrow_offsets), METH_FASTCALL, NULL},
        {"arrow_list_views", SHM_FAST(shm_arrow_list_views), METH_FASTCALL, NULL},
        {"arrow_struct", shm_arrow_struct_call, METH_O, NULL},
        {"arrow_dense", SHM_FAST(shm_arrow_dense), METH_FASTCALL, NULL},
        {"arrow_runs", SHM_FAST(shm_arrow_runs), METH_FASTCALL, NULL},
        {"arrow_views", SHM_FAST(shm_arrow_views), METH_FASTCALL, NULL},
        {NULL, NULL, 0, NULL},
};

static PyType_Spec *shm_builtin_types[] = {&shm_current_spec, &shm_exporter_spec, &shm_space_spec, &shm_holding_spec, &shm_held_spec,
                                           &shm_lane_spec, &shm_home_spec, &shm_kept_object_spec, &shm_closer_spec, &shm_sealer_spec, &shm_filler_spec};

/* Put an object, which is ours, into a dict; NULL is an error. */
static int shm_install(uint64_t dict, const char *name, PyObject *object)
{
        int error = object == NULL || PyDict_SetItemString((PyObject *)(uintptr_t)dict, name, object) < 0;

        Py_XDECREF(object);
        return error ? -ENOMEM : 0;
}

/* Put the functions and the types into a dict, by their names without the module. -ENOMEM: no memory. */
int shm_builtins_install(uint64_t dict)
{
        PyGILState_STATE state = PyGILState_Ensure();
        PyMethodDef *method;
        size_t i;
        int error = 0;

        for (method = shm_builtins; method->ml_name != NULL && !error; method++)
                error = shm_install(dict, method->ml_name, PyCFunction_NewEx(method, NULL, NULL));
        for (i = 0; i < sizeof(shm_builtin_types) / sizeof(shm_builtin_types[0]) && !error; i++)
                error = shm_install(dict, strrchr(shm_builtin_types[i]->name, '.') + 1,
                                    PyType_FromSpec(shm_builtin_types[i]));
        if (!error)
                error = shm_arena_install(dict);
        if (!error)
                error = shm_lane_install((PyObject *)(uintptr_t)dict);
        if (error)
                PyErr_Clear();
        else
                shm_current_type = PyDict_GetItemString((PyObject *)(uintptr_t)dict, "Current");
        PyGILState_Release(state);
        return error;
}

#endif /* SHM_BUILTINS_H */
