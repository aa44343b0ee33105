// What Python sees of the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "common/kernels.h"
#include "common/pool.h"
#include "experts/experts.h"
#include "product/product.h"

namespace nb = nanobind;
using namespace nb::literals;
using gptoss::Weight;
namespace mx = mlx::core;

using Array = const mx::array&;
using Maybe = const std::optional<mx::array>&;

NB_MODULE(_native, m) {
    m.attr("interface") = GPTOSS_INTERFACE;
    m.attr("mlx_version") = GPTOSS_MLX_VERSION;

    m.def("isa", [] { return std::string(gptoss::kernels().name); });
    m.def("isa_words", [] { return std::string(gptoss::kernels().words); });
    m.def("available_isas", &gptoss::available_isas);
    m.def("use_isa", &gptoss::use_isa, "name"_a);
    m.def("threads", &gptoss::threads);
    m.def("set_threads", &gptoss::set_threads, "count"_a);

    nb::class_<Weight>(m, "Weight")
        .def(
            "__init__",
            [](Weight* self, Array weight, Maybe scales, Maybe biases, Maybe bias, const std::string& mode, int bits,
               int group) {
                new (self)
                    Weight{weight, scales, biases, bias, gptoss::format_named(mode, bits, weight.dtype()), group};
            },
            "weight"_a, "scales"_a.none() = nb::none(), "biases"_a.none() = nb::none(), "bias"_a.none() = nb::none(),
            "mode"_a = "", "bits"_a = 0, "group"_a = 0);

    m.def(
        "product", [](Array x, const Weight& weight, bool rounded) { return gptoss::product(x, weight, rounded); },
        "x"_a, "weight"_a, "rounded"_a);
    m.def(
        "experts",
        [](Array x, Array chosen, Array shares, const Weight& gate, const Weight& up, const Weight& down, float limit,
           float alpha,
           bool rounded) { return gptoss::experts(x, chosen, shares, gate, up, down, limit, alpha, rounded); },
        "x"_a, "chosen"_a, "shares"_a, "gate"_a, "up"_a, "down"_a, "limit"_a, "alpha"_a, "rounded"_a);
    m.def("route", [](Array logits, int k) { return gptoss::route(logits, k); }, "logits"_a, "k"_a);
}
