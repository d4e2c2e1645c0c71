output "urls" {
  description = "Where each function is."
  value       = local.urls
}

output "service_accounts" {
  description = "The account each function runs as, for allow lists and database users."
  value       = { for name in local.functions : name => google_service_account.functions[name].email }
}
