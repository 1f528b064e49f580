import { consumer } from "../sandpost/sandpost";
import { handler } from "./consumer";
export { cabi_post_handle, cabi_realloc, handle } from "../sandpost/sandpost";

consumer(handler);
