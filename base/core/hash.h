/* hash: uthash with a hash function that clang accepts: the default one falls through its switch unannotated.
 */
#ifndef REEVE_BASE_CORE_HASH_H
#define REEVE_BASE_CORE_HASH_H

#ifndef HASH_FUNCTION
#define HASH_FUNCTION(keyptr, keylen, hashv) HASH_FNV(keyptr, keylen, hashv)
#endif
#include <uthash.h>

#endif
