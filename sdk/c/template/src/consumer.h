#include "sandpost.h"

sp_outcome handle(const sp_message *message, const sp_delivery *delivery);
