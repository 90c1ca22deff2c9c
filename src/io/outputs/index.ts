export { type ClaimFound, checkClaim, claimFolder, type FolderClaim, removeClaimed } from "./claim.ts";
export { checkDisk } from "./disk.ts";
export { guardOutputs } from "./guard.ts";
export { checkFolder } from "./inspect.ts";
export { manifestFile } from "./manifest.ts";
export { checkPicture, writePicture } from "./picture.ts";
export { putBack } from "./put-back.ts";
export { addFile, writeFolder } from "./write-folder.ts";
