export { type ApplyLayerOptions, applyLayer, checkLayer } from './layer/apply.ts'
export { type ReadLayerOptions, readLayer } from './layer/read.ts'
