// The schema of every op, and nothing else: a process that has loaded only this library can load scripted files.
// Each stands again in python/torchvision_customizer/ops/<op>.py, which compares the two at import.

#include "common/stable_abi.h"

TVC_SCHEMAS(m) {
  m.define(
      "squeeze_excite(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act='relu', str gate='sigmoid', "
      "Tensor? residual=None, str post='none') -> Tensor");
  m.define(
      "_squeeze_excite_(Tensor(a!) x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate, Tensor? residual, "
      "str post) -> ()");
  m.define(
      "_squeeze_excite_backward(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate, "
      "Tensor? residual, str post, Tensor? out, bool residual_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.define("eca(Tensor x, Tensor weight, str gate='sigmoid', Tensor? residual=None, str post='none') -> Tensor");
  m.define("_eca_(Tensor(a!) x, Tensor weight, str gate, Tensor? residual, str post) -> ()");
  m.define(
      "_eca_backward(Tensor grad, Tensor x, Tensor weight, str gate, Tensor? residual, str post, Tensor? out, "
      "bool residual_grad) -> (Tensor, Tensor, Tensor)");
  m.define("gem_pool(Tensor x, Tensor p, float eps=1e-06) -> Tensor");
  m.define("_gem_pool_backward(Tensor grad, Tensor x, Tensor p, float eps, bool p_grad) -> (Tensor, Tensor)");
  m.define("drop_path(Tensor x, Tensor mask, Tensor? residual=None, str post='none') -> Tensor");
  m.define("_drop_path_(Tensor(a!) x, Tensor mask, Tensor? residual, str post) -> ()");
  m.define(
      "_drop_path_backward(Tensor grad, Tensor x, Tensor mask, Tensor? residual, str post, Tensor? out, bool residual_grad) "
      "-> (Tensor, Tensor)");
  m.define(
      "cbam(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor spatial_weight, Tensor? spatial_bias, "
      "str act='relu', str gate='sigmoid', Tensor? residual=None, str post='none') -> Tensor");
  m.define(
      "_cbam_(Tensor(a!) x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor spatial_weight, Tensor? spatial_bias, "
      "str act, str gate, Tensor? residual, str post) -> ()");
  m.define(
      "_cbam_backward(Tensor grad, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor spatial_weight, "
      "Tensor? spatial_bias, str act, str gate, Tensor? residual, str post, Tensor? out, bool residual_grad) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.define("_cbam_channels(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str act, str gate) -> (Tensor, Tensor)");
  m.define(
      "_cbam_channels_backward(Tensor grad_scale, Tensor grad_maps, Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, "
      "str act, str gate) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.define("_cbam_apply(Tensor x, Tensor scale, Tensor logits, str gate, Tensor? residual, str post) -> Tensor");
  m.define(
      "_cbam_apply_backward(Tensor grad, Tensor x, Tensor scale, Tensor logits, str gate, Tensor? residual, str post, "
      "Tensor? out, bool residual_grad) -> (Tensor, Tensor, Tensor, Tensor)");
}
