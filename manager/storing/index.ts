export { createCatalog } from './catalog.ts'
export { createLayout } from './layout.ts'
export { createStoring, type StoringOptions } from './storing.ts'
export type * from './types.ts'
