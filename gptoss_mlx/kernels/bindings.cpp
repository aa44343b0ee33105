// What Python sees of the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "attention/attention.h"
#include "attention/segments.h"
#include "cache/append.h"
#include "cache/quantize.h"
#include "common/kernels.h"
#include "common/pool.h"
#include "experts/experts.h"
#include "mapping/mapping.h"
#include "mapping/pages.h"
#include "norm/norm.h"
#include "product/product.h"
#include "rope/rope.h"

namespace nb = nanobind;
using namespace nb::literals;
using gptoss::Mapping;
using gptoss::Weight;
namespace mx = mlx::core;

using Array = const mx::array&;
using Arrays = std::vector<mx::array>;
using Maybe = const std::optional<mx::array>&;

static gptoss::Precision precision_named(int value) {
    if (value < 0 || value > 2) throw std::invalid_argument("precision: 0 (exact), 1 (few rows) or 2 (many) expected");
    return static_cast<gptoss::Precision>(value);
}

static std::vector<gptoss::Segment> segments_of(const std::vector<int64_t>& counts, const std::vector<int64_t>& starts,
                                                const std::vector<int64_t>& firsts) {
    if (starts.size() != counts.size() || firsts.size() != counts.size())
        throw std::invalid_argument("segments: a count, a start and a first token of each expected");
    std::vector<gptoss::Segment> segments;
    for (size_t i = 0; i < counts.size(); ++i) segments.push_back({counts[i], starts[i], firsts[i]});
    return segments;
}

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

    nb::exception<gptoss::Unmappable>(m, "Unmappable", PyExc_RuntimeError);
    nb::class_<Mapping>(m, "Mapping")
        .def(nb::new_(&Mapping::open), "path"_a)
        .def("array", &Mapping::array, "offset"_a, "shape"_a, "dtype"_a);

    m.def(
        "fresh_pages",
        [](const std::vector<int64_t>& shape, mx::Dtype dtype) { return gptoss::fresh_pages(shape, dtype); }, "shape"_a,
        "dtype"_a);
    m.def("page_bytes", &gptoss::page_bytes);
    m.def(
        "product",
        [](Array x, const Weight& weight, int precision) {
            return gptoss::product(x, weight, precision_named(precision));
        },
        "x"_a, "weight"_a, "precision"_a);
    m.def(
        "experts",
        [](Array x, Array chosen, Array shares, const Weight& gate, const Weight& up, const Weight& down, float limit,
           float alpha, int precision) {
            return gptoss::experts(x, chosen, shares, gate, up, down, limit, alpha, precision_named(precision));
        },
        "x"_a, "chosen"_a, "shares"_a, "gate"_a, "up"_a, "down"_a, "limit"_a, "alpha"_a, "precision"_a);
    m.def(
        "attend",
        [](Array queries, Array keys, Array values, Array sinks, float scale, int window, int64_t first) {
            return gptoss::attend(queries, keys, values, sinks, scale, window, first);
        },
        "queries"_a, "keys"_a, "values"_a, "sinks"_a, "scale"_a, "window"_a, "first"_a = 0);
    m.def(
        "append_and_attend",
        [](Array queries, Array keys, Array values, Array sinks, const std::vector<Arrays>& buffers,
           const std::vector<int64_t>& counts, const std::vector<int64_t>& starts, const std::vector<int64_t>& firsts,
           float scale, int window) {
            return gptoss::append_and_attend(queries, keys, values, sinks, buffers, segments_of(counts, starts, firsts),
                                             scale, window);
        },
        "queries"_a, "keys"_a, "values"_a, "sinks"_a, "buffers"_a, "counts"_a, "starts"_a, "firsts"_a, "scale"_a,
        "window"_a);
    m.def(
        "attend_codes",
        [](Array queries, const Arrays& keys, const Arrays& values, Array sinks, float scale, int window) {
            return gptoss::attend_codes(queries, keys, values, sinks, scale, window);
        },
        "queries"_a, "keys"_a, "values"_a, "sinks"_a, "scale"_a, "window"_a);
    m.def(
        "heads",
        [](Array x, int width, Maybe cos, Maybe sin, mx::Dtype dtype) {
            return gptoss::heads(x, width, cos, sin, dtype);
        },
        "x"_a, "width"_a, "cos"_a.none(), "sin"_a.none(), "dtype"_a);
    m.def(
        "append", [](Array buffer, Array fresh, int start) { return gptoss::append(buffer, fresh, start); }, "buffer"_a,
        "fresh"_a, "start"_a);
    m.def(
        "append_codes",
        [](const Arrays& buffers, Array fresh, int start) { return gptoss::append_codes(buffers, fresh, start); },
        "buffers"_a, "fresh"_a, "start"_a);
    m.def(
        "rms_norm", [](Array x, Array weight, float eps) { return gptoss::rms_norm(x, weight, eps); }, "x"_a,
        "weight"_a, "eps"_a);
    m.def("route", [](Array logits, int k) { return gptoss::route(logits, k); }, "logits"_a, "k"_a);
}
