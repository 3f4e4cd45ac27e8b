/* weights - tensors bound to slots. */
#pragma once
#include "model/model.h"

/* Fill m->w, m->layers and the sums from m->gguf, m->map, m->family and m->hp. Every required
 * tensor must be there in its exact shape and in a type that has kernels; vectors are floats.
 * -EBADMSG, -ENOTSUP, -ENOMEM. */
int weights_bind(struct model *m, struct err *err);
