export { type Content, type ContentOptions, followContent, giveAllBack } from './content.ts'
